//! What each model says of the same images, asked through the same door.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;
use skysail_proto::pb::v1::{self, admin_client::AdminClient, prediction_client::PredictionClient};

use super::{
    APPLICATION, BROKEN,
    data::{Images, PIXELS},
    process::Server,
};

/// Rows per request.
const ROWS: usize = 500;

/// Every model's labels for every test image.
pub(super) struct Alone {
    /// By the application's arms, in their order; the broken model's good build.
    pub(super) arms: Vec<(String, Vec<i64>)>,
    /// The broken model's bad build.
    pub(super) bad: Vec<i64>,
}

impl Alone {
    /// What an arm says of an image, given whether the best model is broken.
    pub(super) fn says(&self, arm: usize, image: usize, broken: bool) -> i64 {
        let (name, labels) = &self.arms[arm];
        if broken && name == BROKEN.0 { self.bad[image] } else { labels[image] }
    }

    /// The label that most arms give, the smallest of several.
    pub(super) fn vote(&self, image: usize, broken: bool) -> i64 {
        let mut votes = std::collections::BTreeMap::new();
        for arm in 0..self.arms.len() {
            *votes.entry(self.says(arm, image, broken)).or_insert(0) += 1;
        }
        let most = votes.values().max().copied().unwrap_or_default();
        votes.into_iter().find(|(_, count)| *count == most).map_or(-1, |(label, _)| label)
    }
}

/// Asks them, by an application of one arm each. Only images that were offered are asked for.
pub(super) async fn ask(
    server: &Server,
    images: &Images,
    offered: impl Iterator<Item = usize>,
) -> anyhow::Result<Alone> {
    let mut admin = AdminClient::new(server.channel.clone());
    let request = v1::GetApplicationRequest { name: APPLICATION.into() };
    let application = admin.get_application(request).await?.into_inner().application;
    let application = application.context("the server has lost the application")?;
    let offered: BTreeSet<usize> = offered.collect();
    let blocks: BTreeSet<usize> = offered.into_iter().map(|image| image / ROWS).collect();
    let (broken, good, bad) = BROKEN;
    let mut alone = Alone { arms: Vec::new(), bad: Vec::new() };
    for link in &application.links {
        let of =
            |version: &str| v1::Link { model: format!("{}:{version}", link.model), ..link.clone() };
        if link.model == broken {
            alone.bad = labels(server, &application, of(bad), images, &blocks).await?;
            let labels = labels(server, &application, of(good), images, &blocks).await?;
            alone.arms.push((link.model.clone(), labels));
        } else {
            let labels = labels(server, &application, link.clone(), images, &blocks).await?;
            alone.arms.push((link.model.clone(), labels));
        }
    }
    Ok(alone)
}

async fn labels(
    server: &Server,
    application: &v1::Application,
    link: v1::Link,
    images: &Images,
    blocks: &BTreeSet<usize>,
) -> anyhow::Result<Vec<i64>> {
    let name = format!("alone-{}", link.model.replace(':', "-"));
    let put = v1::Application {
        name: name.clone(),
        // Nobody waits for these; a whole block must not be late.
        objective: Some(Duration::from_secs(60).try_into()?),
        policy: Some(v1::Policy { name: "static".into(), ..Default::default() }),
        links: vec![link],
        ..application.clone()
    };
    let mut admin = AdminClient::new(server.channel.clone());
    admin.put_application(v1::PutApplicationRequest { application: Some(put) }).await?;
    let mut client = PredictionClient::new(server.channel.clone());
    let mut labels = vec![-1; images.len()];
    for block in blocks {
        let first = block * ROWS;
        let rows = ROWS.min(images.len() - first);
        let request = v1::PredictRequest {
            application: name.clone(),
            inputs: vec![v1::Tensor {
                name: "input".into(),
                datatype: "FP32".into(),
                shape: vec![rows as i64, PIXELS as i64],
                data: images.rows(first, rows),
            }],
            ..Default::default()
        };
        let response = client.predict(request).await.with_context(|| format!("asking {name}"))?;
        let outputs = response.into_inner().outputs;
        let output = outputs.iter().find(|output| output.name == "label");
        let data = &output.context("an answer without a label")?.data;
        let found = data.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok());
        for (place, label) in labels[first..].iter_mut().zip(found.map(i64::from_le_bytes)) {
            *place = label;
        }
    }
    admin.delete_application(v1::DeleteApplicationRequest { name }).await?;
    Ok(labels)
}
