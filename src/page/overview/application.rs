//! How an application stands now.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use skysail_containers::{ContainerInfo, MaskReason};
use skysail_proto::pb::v1;
use skysail_selection::{Application, service::ArmView};

use crate::{
    application::DEFAULT_MAX_IN_FLIGHT,
    applications::{Origin, Served},
    page::{
        Inner, Kept,
        history::{ApplicationPoint, ApplicationSeries},
        watch::state_name,
    },
};

/// Seconds that a rate is over, and a percentile is.
const RECENT: usize = 10;

/// Seconds that an accuracy is over: feedback is rarer than queries.
const ACCURACY: usize = 30;

#[derive(Debug, Serialize)]
pub(super) struct ApplicationRow {
    name: Arc<str>,
    task: &'static str,
    policy: Arc<str>,
    shadow: Option<Arc<str>>,
    objective_ms: f64,
    in_flight: u32,
    /// Of the last seconds; `None`: nothing is kept of it, or nothing came.
    replies_per_s: Option<f64>,
    p50_ms: Option<f32>,
    p99_ms: Option<f32>,
    accuracy: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ApplicationDetail {
    #[serde(flatten)]
    row: ApplicationRow,
    max_in_flight: u32,
    /// The file that declares it, if one does.
    declared_in: Option<Arc<str>>,
    /// Why it cannot answer yet.
    not_ready: Option<String>,
    arms: Vec<ArmRow>,
    shadow_arms: Vec<ArmRow>,
    replies: Vec<(&'static str, u64)>,
    in_time: u64,
    feedback: Vec<(&'static str, u64)>,
}

#[derive(Debug, Serialize)]
struct ArmRow {
    arm: Arc<str>,
    /// What its name stands for now.
    model: Option<String>,
    weight: Option<f64>,
    /// `None`: no feedback scored it.
    mean_loss: Option<f64>,
    observations: u64,
    availability: Option<f64>,
    /// Why it is not asked now.
    down: Option<String>,
}

/// Replies a second, of the last ones.
pub(super) fn rate(series: Option<&ApplicationSeries>) -> f64 {
    let Some(series) = series else { return 0.0 };
    let last = series.points.last(RECENT);
    let seconds = last.clone().count().max(1) as f64;
    f64::from(last.map(replies).sum::<u32>()) / seconds
}

fn replies(point: &ApplicationPoint) -> u32 {
    let ApplicationPoint { answered, partial, default, refused, .. } = point;
    answered + partial + default + refused
}

fn accuracy(series: &ApplicationSeries) -> Option<f64> {
    let last = series.points.last(ACCURACY);
    let (rows, loss) = last.fold((0.0, 0.0), |(rows, loss), point| {
        (rows + f64::from(point.scored), loss + f64::from(point.loss))
    });
    (rows > 0.0).then(|| 1.0 - loss / rows)
}

fn task_name(served: &Served) -> &'static str {
    match served.wire.task() {
        v1::Task::Regression => "regression",
        v1::Task::Opaque => "opaque",
        v1::Task::Classification | v1::Task::Unspecified => "classification",
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl ApplicationRow {
    pub(super) fn new(served: &Served, kept: &Kept) -> Self {
        let application = served.application();
        let series = kept.history.application(&application.name);
        let latest = series.and_then(|series| series.points.latest());
        let number = |of: fn(&ApplicationPoint) -> f32| latest.map(of).filter(|ms| !ms.is_nan());
        Self {
            name: Arc::clone(&application.name),
            task: task_name(served),
            policy: Arc::clone(&application.policy_name),
            shadow: application.shadow.as_ref().map(|(policy, _)| Arc::clone(policy)),
            objective_ms: ms(application.objective),
            in_flight: served.admission.under_way(),
            replies_per_s: series.map(|series| rate(Some(series))),
            p50_ms: number(|point| point.p50_ms),
            p99_ms: number(|point| point.p99_ms),
            accuracy: series.and_then(accuracy),
        }
    }
}

impl ApplicationDetail {
    pub(super) fn new(
        page: &Inner,
        kept: &Kept,
        served: &Served,
        containers: &[ContainerInfo],
    ) -> Self {
        let (application, recent) = (served.application(), served.metrics.recent());
        let stack = served.stack();
        let (arms, shadow_arms) = match &stack {
            Some(stack) => {
                let view = stack.selection_in_memory();
                (view.arms, view.shadow.map(|shadow| shadow.arms).unwrap_or_default())
            }
            None => Default::default(),
        };
        let row = |arm: ArmView| ArmRow {
            model: model(page, &arm.arm),
            weight: Some(arm.weight),
            mean_loss: (arm.observations > 0).then_some(arm.mean_loss),
            observations: arm.observations,
            availability: Some(arm.availability),
            down: down(page, application, &arm.arm, containers),
            arm: arm.arm,
        };
        let unknown = |arm: &skysail_selection::Arm| ArmRow {
            arm: Arc::clone(&arm.name),
            model: model(page, &arm.name),
            weight: None,
            mean_loss: None,
            observations: 0,
            availability: None,
            down: down(page, application, &arm.name, containers),
        };
        Self {
            row: ApplicationRow::new(served, kept),
            max_in_flight: served.wire.max_in_flight.unwrap_or(DEFAULT_MAX_IN_FLIGHT),
            declared_in: match &served.origin {
                Origin::File(file) => Some(Arc::clone(file)),
                Origin::Admin => None,
            },
            not_ready: stack.is_none().then(|| not_ready(page, application)),
            arms: match &stack {
                Some(_) => arms.into_iter().map(row).collect(),
                None => application.arms.iter().map(unknown).collect(),
            },
            shadow_arms: shadow_arms.into_iter().map(row).collect(),
            replies: recent.replies_by_status(),
            in_time: recent.replies().in_time,
            feedback: recent.feedback_by_outcome(),
        }
    }
}

fn not_ready(page: &Inner, application: &Application) -> String {
    if application.arms.is_empty() {
        "it links no model: put it again with links".into()
    } else if application.arms.iter().any(|arm| model(page, &arm.name).is_some()) {
        "its selection is put in place with its first query".into()
    } else {
        "none of its models is registered yet".into()
    }
}

fn model(page: &Inner, arm: &str) -> Option<String> {
    page.sources.models.resolve(arm).map(|model| model.id.to_string())
}

/// As a query of one row, which came now, would find the arm.
fn down(
    page: &Inner,
    application: &Application,
    arm: &str,
    containers: &[ContainerInfo],
) -> Option<String> {
    let Some(model) = page.sources.models.resolve(arm) else {
        return Some("no model of this name is registered".into());
    };
    let budget = application.objective.saturating_sub(application.slack);
    let reason = page.sources.models.mask(&model, 1, Instant::now() + budget)?;
    Some(match reason {
        MaskReason::QueueTooLong { predicted } => {
            format!("its queue is too long: it would answer after {:.1} ms", ms(predicted))
        }
        MaskReason::Infeasible { floor } => {
            format!("one row takes it {:.1} ms, more than the objective allows", ms(floor))
        }
        _ => {
            let its = |container: &&ContainerInfo| {
                (&container.model, &container.version) == (&model.id.name, &model.id.version)
            };
            let why: Vec<_> = containers.iter().filter(its).map(why).collect();
            match why.is_empty() {
                true => "it has no container".into(),
                false => why.join("; "),
            }
        }
    })
}

fn why(container: &ContainerInfo) -> String {
    let ContainerInfo { replica, state, reason, .. } = container;
    let state = state_name(*state);
    match reason.as_str() {
        "" => format!("replica {replica} is {state}"),
        reason => format!("replica {replica} is {state}: {reason}"),
    }
}
