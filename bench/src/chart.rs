//! Line charts that can be read in grey.

use std::path::Path;

use anyhow::Context as _;
use plotters::prelude::*;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    /// As the legend says it.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// What is drawn.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Above it.
    pub title: &'a str,
    /// Below it, with the unit.
    pub x: &'a str,
    /// Beside it, with the unit.
    pub y: &'a str,
    /// Lowest and highest value of the upright axis.
    pub range: (f64, f64),
    /// Shaded from here to there.
    pub shaded: Option<(f64, f64)>,
    /// The first one is drawn boldest.
    pub lines: Vec<Line>,
}

/// Darkness and dashes tell lines apart without colour.
const STYLES: [(RGBColor, u32, u32); 8] = [
    (BLACK, 3, 0),
    (RGBColor(200, 60, 40), 2, 0),
    (RGBColor(60, 110, 190), 2, 6),
    (RGBColor(40, 140, 80), 2, 12),
    (RGBColor(150, 90, 170), 2, 3),
    (RGBColor(130, 130, 130), 2, 0),
    (RGBColor(190, 150, 60), 2, 9),
    (RGBColor(170, 170, 170), 1, 4),
];

impl Chart<'_> {
    /// Writes it as SVG.
    ///
    /// # Errors
    ///
    /// There is no point, or the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let xs = || self.lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
        let (first, last) = xs().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        anyhow::ensure!(first <= last, "a chart without a point");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("making {}", folder.display()))?;
        }
        let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
        root.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&root)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(first..last.max(first + 1e-9), self.range.0..self.range.1)?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|x| format!("{}", (x * 100.0).round() / 100.0))
            .light_line_style(WHITE)
            .draw()?;
        if let Some((from, to)) = self.shaded {
            let corners = [(from, self.range.0), (to, self.range.1)];
            let shade = Rectangle::new(corners, RGBColor(235, 235, 235).filled());
            chart.draw_series([shade])?;
        }
        for (line, (colour, width, dash)) in self.lines.iter().zip(STYLES.iter().cycle()) {
            let style = colour.stroke_width(*width);
            let inside = |(x, y): &(f64, f64)| (*x, y.clamp(self.range.0, self.range.1));
            let points: Vec<_> = line.points.iter().map(inside).collect();
            let legend = move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style);
            if *dash == 0 {
                chart.draw_series(LineSeries::new(points, style))?.label(&line.name).legend(legend);
            } else {
                let dashed = DashedLineSeries::new(points, *dash, *dash, style);
                chart
                    .draw_series(dashed)?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 8, y)], style));
            }
        }
        // Where the first line ends high, the legend goes below it.
        let end = self.lines.first().and_then(|line| line.points.last());
        let is_high = end.is_some_and(|(_, y)| *y > f64::midpoint(self.range.0, self.range.1));
        let position =
            if is_high { SeriesLabelPosition::LowerRight } else { SeriesLabelPosition::UpperRight };
        chart
            .configure_series_labels()
            .position(position)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(180, 180, 180))
            .draw()?;
        root.present()?;
        Ok(())
    }
}
