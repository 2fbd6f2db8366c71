//! `skysail app`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use skysail_proto::pb::v1::{self, admin_client::AdminClient};
use tonic::transport::Channel;

use super::{ServerAddress, client::refused};
use crate::config::parse_applications;

#[derive(Debug, Args)]
pub(super) struct AppArgs {
    #[command(subcommand)]
    command: AppCommand,
    #[command(flatten)]
    server: ServerAddress,
}

#[derive(Debug, Subcommand)]
enum AppCommand {
    /// Put the applications of a file of [[application]] tables; each replaces the whole.
    Put {
        /// The file.
        file: PathBuf,
    },
    /// Show an application, what its policy has learned, and its models.
    Get {
        /// Its name.
        name: String,
        /// Whose selection state to show.
        #[arg(long, value_name = "ID", default_value = "")]
        context: String,
    },
    /// List the applications.
    List,
    /// Delete an application.
    Delete {
        /// Its name.
        name: String,
    },
}

pub(super) async fn app(args: AppArgs) -> anyhow::Result<()> {
    let mut admin = AdminClient::new(args.server.connect().await?);
    match args.command {
        AppCommand::Put { file } => {
            for application in parse_applications(&file)? {
                let name = application.name.clone();
                let request = v1::PutApplicationRequest { application: Some(application) };
                admin.put_application(request).await.map_err(refused)?;
                crate::say!("put {name}");
            }
        }
        AppCommand::Get { name, context } => get(&mut admin, name, context).await?,
        AppCommand::List => {
            let response = admin.list_applications(v1::ListApplicationsRequest {}).await;
            for application in response.map_err(refused)?.into_inner().applications {
                crate::say!("{}", one_line(&application));
            }
        }
        AppCommand::Delete { name } => {
            let request = v1::DeleteApplicationRequest { name: name.clone() };
            admin.delete_application(request).await.map_err(refused)?;
            crate::say!("deleted {name}");
        }
    }
    Ok(())
}

fn one_line(application: &v1::Application) -> String {
    let objective = application.objective.and_then(|d| std::time::Duration::try_from(d).ok());
    let policy = application.policy.as_ref().map_or("default", |policy| policy.name.as_str());
    let links: Vec<_> = application.links.iter().map(|link| link.model.as_str()).collect();
    format!(
        "{} objective {:?} policy {policy} models {}",
        application.name,
        objective.unwrap_or_default(),
        links.join(", ")
    )
}

async fn get(
    admin: &mut AdminClient<Channel>,
    name: String,
    context: String,
) -> anyhow::Result<()> {
    let request = v1::GetApplicationRequest { name: name.clone() };
    let application = admin.get_application(request).await.map_err(refused)?.into_inner();
    crate::say!("{}", one_line(&application.application.unwrap_or_default()));
    let request = v1::GetSelectionRequest { application: name, context_id: context };
    let selection = admin.get_selection(request).await.map_err(refused)?.into_inner();
    crate::say!("policy {} state version {}", selection.policy, selection.state_version);
    for arm in selection.arms {
        crate::say!(
            "  {:<20} weight {:.4} mean loss {:.4} observations {} availability {:.3}",
            arm.arm,
            arm.weight,
            arm.mean_loss,
            arm.observations,
            arm.availability
        );
    }
    Ok(())
}
