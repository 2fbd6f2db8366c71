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
    /// The lower axis grows by factors; every point's x is above 0.
    pub logarithmic: bool,
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

/// What is drawn on.
type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

/// Writes charts beside each other into one SVG.
///
/// # Errors
///
/// One has no point, or the file cannot be written.
pub fn write_beside(path: &Path, charts: &[Chart<'_>]) -> anyhow::Result<()> {
    let wide = charts.len() as u32 * 430;
    let root = surface(path, (wide, 360))?;
    for (area, chart) in root.split_evenly((1, charts.len())).iter().zip(charts) {
        chart.draw(area)?;
    }
    Ok(root.present()?)
}

fn surface(path: &Path, size: (u32, u32)) -> anyhow::Result<Area<'_>> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    Ok(root)
}

/// A number on an axis, in few letters.
fn short(value: f64) -> String {
    let digits = |value: f64| {
        let two = 10_f64.powf(value.abs().max(1e-9).log10().floor() - 1.0);
        ((value / two).round() * two * 100.0).round() / 100.0
    };
    match value.abs() {
        size if size >= 1e6 => format!("{}M", digits(value / 1e6)),
        size if size >= 1e4 => format!("{}k", digits(value / 1e3)),
        _ => format!("{}", digits(value)),
    }
}

impl Chart<'_> {
    /// Writes it as SVG.
    ///
    /// # Errors
    ///
    /// There is no point, or the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let root = surface(path, (900, 480))?;
        self.draw(&root)?;
        Ok(root.present()?)
    }

    /// Where a value of the lower axis is drawn.
    fn place(&self, x: f64) -> f64 {
        if self.logarithmic { x.log10() } else { x }
    }

    fn draw(&self, root: &Area<'_>) -> anyhow::Result<()> {
        let xs = || self.lines.iter().flat_map(|line| line.points.iter().map(|(x, _)| *x));
        let (first, last) = xs().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        anyhow::ensure!(first <= last, "a chart without a point");
        let (first, last) = (self.place(first), self.place(last));
        let mut chart = ChartBuilder::on(root)
            .caption(self.title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(60)
            .build_cartesian_2d(first..last.max(first + 1e-9), self.range.0..self.range.1)?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_labels(if self.logarithmic { 6 } else { 10 })
            .x_label_formatter(&|x| match self.logarithmic {
                true => short(10_f64.powf(*x)),
                false => format!("{}", (x * 100.0).round() / 100.0),
            })
            .y_label_formatter(&|y| match self.range.1 >= 1e4 {
                true => short(*y),
                false => format!("{}", (y * 1e4).round() / 1e4),
            })
            .light_line_style(WHITE)
            .draw()?;
        if let Some((from, to)) = self.shaded {
            let corners = [(self.place(from), self.range.0), (self.place(to), self.range.1)];
            let shade = Rectangle::new(corners, RGBColor(235, 235, 235).filled());
            chart.draw_series([shade])?;
        }
        for (line, (colour, width, dash)) in self.lines.iter().zip(STYLES.iter().cycle()) {
            let style = colour.stroke_width(*width);
            let inside =
                |(x, y): &(f64, f64)| (self.place(*x), y.clamp(self.range.0, self.range.1));
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
        if self.lines.len() < 2 {
            // The axis says it all.
            return Ok(());
        }
        chart
            .configure_series_labels()
            .position(position)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(180, 180, 180))
            .draw()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_on_an_axis_are_short() {
        let said: Vec<_> = [1.0, 3.162, 31.6, 1_000.0, 31_623.0, 1e6, 0.0].map(short).into();
        assert_eq!(said, ["1", "3.2", "32", "1000", "32k", "1M", "0"]);
    }

    #[test]
    fn charts_beside_each_other_are_in_one_file() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("two.svg");
        let chart = |title, logarithmic| Chart {
            title,
            x: "clients",
            y: "milliseconds",
            range: (0.0, 2.0),
            logarithmic,
            shaded: None,
            lines: vec![Line { name: "p99".into(), points: vec![(1.0, 1.0), (1e4, 1.5)] }],
        };
        write_beside(&path, &[chart("left", true), chart("right", false)]).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("left") && text.contains("right") && text.contains("clients"));
    }
}
