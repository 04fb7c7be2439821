//! The store of an example: in memory, or the etcd that `--endpoints` names.
#![expect(clippy::print_stderr, reason = "an example prints why it failed")]

use std::error::Error;
use std::process::ExitCode;

use coord_core::Client;
use coord_mem::MemBackend;

pub(crate) type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// The store of an example.
pub(crate) enum Store {
    Memory(MemBackend),
    #[cfg(feature = "etcd")]
    Etcd(Vec<String>),
}

impl Store {
    /// Creates a client. Its tasks run on the runtime of the caller.
    pub(crate) async fn connect(&self) -> Result<Client> {
        Ok(match self {
            Self::Memory(store) => Client::new(store.clone()),
            #[cfg(feature = "etcd")]
            Self::Etcd(endpoints) => {
                Client::new(coord_etcd::EtcdBackend::connect(endpoints).await?)
            }
        })
    }

    /// Parses the option `--endpoints` at the end of the command line. Returns the store and the
    /// arguments before the option.
    fn parse(mut arguments: Vec<String>) -> (Self, Vec<String>) {
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

/// The main function of an example with `N` arguments. Prints `usage` if their number differs.
pub(crate) fn run<const N: usize>(
    usage: &str,
    example: impl FnOnce([String; N], Store) -> Result<()>,
) -> ExitCode {
    let (store, arguments) = Store::parse(std::env::args().skip(1).collect());
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
