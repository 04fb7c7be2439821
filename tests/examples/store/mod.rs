//! What the examples share: where they run. In memory, unless `--endpoints` names an etcd.
#![expect(clippy::print_stderr, reason = "an example says why it cannot run")]

use std::error::Error;
use std::process::ExitCode;

use coord_core::Client;
use coord_mem::MemBackend;

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Where an example keeps its keys.
pub(crate) enum Store {
    Memory(MemBackend),
    #[cfg(feature = "etcd")]
    Etcd(Vec<String>),
}

impl Store {
    /// Connects. The connection lives on the runtime of the caller.
    pub(crate) async fn connect(&self) -> Result<Client> {
        Ok(match self {
            Self::Memory(store) => Client::new(store.clone()),
            #[cfg(feature = "etcd")]
            Self::Etcd(endpoints) => {
                Client::new(coord_etcd::EtcdBackend::connect(endpoints).await?)
            }
        })
    }

    /// The store that the end of the command line names, and what comes before it.
    fn named(mut arguments: Vec<String>) -> (Self, Vec<String>) {
        match &arguments[..] {
            #[cfg(feature = "etcd")]
            [.., option, endpoints] if option == "--endpoints" => {
                let endpoints = endpoints.split(',').map(str::to_owned).collect();
                arguments.truncate(arguments.len() - 2);
                (Self::Etcd(endpoints), arguments)
            }
            _ => (Self::Memory(MemBackend::new()), std::mem::take(&mut arguments)),
        }
    }
}

/// Runs an example with its `N` arguments, or tells how it is used.
pub(crate) fn run<const N: usize>(
    usage: &str,
    example: impl FnOnce([String; N], Store) -> Result<()>,
) -> ExitCode {
    let (store, arguments) = Store::named(std::env::args().skip(1).collect());
    let Ok(arguments) = <[String; N]>::try_from(arguments) else {
        eprintln!("{usage}");
        return ExitCode::from(2);
    };
    match example(arguments, store) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
