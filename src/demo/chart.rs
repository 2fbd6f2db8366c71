//! The curve: accuracy over the last queries, of Skysail and of those it is compared with.

use std::path::Path;

use plotters::prelude::*;

use super::{
    alone::Alone,
    data::Images,
    drive::Plan,
    tally::{Phase, Tally},
};

/// Queries that each point is over.
const WINDOW: usize = 500;
const STEP: usize = 50;

pub(super) fn write(
    path: &Path,
    tally: &Tally,
    alone: &Alone,
    plan: &Plan,
    images: &Images,
) -> anyhow::Result<()> {
    let image = |query: usize| tally.offered[query].image;
    let broken = |query: usize| plan.phase(query) == Phase::Broken;
    let right = |query: usize, says: Option<i64>| says == Some(images.label(image(query)));
    let arm = |name: &str| alone.arms.iter().position(|(arm, _)| arm == name);
    let mut curves: Vec<(String, Vec<bool>)> = vec![(
        "Skysail".into(),
        (0..plan.queries).map(|query| right(query, tally.offered[query].answer)).collect(),
    )];
    for name in [super::BROKEN.0, "mlp"] {
        if let Some(arm) = arm(name) {
            let says = |query| right(query, Some(alone.says(arm, image(query), broken(query))));
            curves.push((format!("{name} alone"), (0..plan.queries).map(says).collect()));
        }
    }
    let votes = |query| right(query, Some(alone.vote(image(query), broken(query))));
    curves.push(("uniform vote".into(), (0..plan.queries).map(votes).collect()));

    let root = SVGBackend::new(path, (900, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Accuracy while the best model is broken (shaded) and mended", ("sans-serif", 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..plan.queries as f64, 0.0..1.0)?;
    chart
        .configure_mesh()
        .x_desc("queries offered")
        .y_desc(format!("share of right answers, last {WINDOW} queries"))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .light_line_style(WHITE)
        .draw()?;
    chart.draw_series([Rectangle::new(
        [(plan.broken_at as f64, 0.0), (plan.mended_at as f64, 1.0)],
        RGBColor(235, 235, 235).filled(),
    )])?;
    // Told apart in grey, too: by darkness and width.
    let styles = [
        BLACK.stroke_width(3),
        RGBColor(200, 60, 40).stroke_width(1),
        RGBColor(60, 110, 190).stroke_width(2),
        RGBColor(150, 150, 150).stroke_width(2),
    ];
    for ((name, right), style) in curves.into_iter().zip(styles) {
        let points = moving(&right);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(RGBColor(180, 180, 180))
        .draw()?;
    root.present()?;
    Ok(())
}

fn moving(right: &[bool]) -> Vec<(f64, f64)> {
    (STEP..=right.len())
        .step_by(STEP)
        .map(|end| {
            let window = &right[end.saturating_sub(WINDOW)..end];
            let share = window.iter().filter(|right| **right).count() as f64 / window.len() as f64;
            (end as f64, share)
        })
        .collect()
}
