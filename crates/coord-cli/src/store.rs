//! The flags and variables that choose the store, the same for every subcommand
//! that connects to a store.
//!
//! The variables have the names that `etcdctl` uses, so that one environment serves both programs.
//! The endpoint `mem:` is a store in the memory of this process, for trials without a server.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use coord_core::Client;
use coord_etcd::environment::{self, Certificates, Settings, SettingsError, Variable};
use coord_mem::MemBackend;

use crate::exit::UsageError;
use crate::text;

/// The default of `--endpoints`: etcd's own default address.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";
/// The default of `--connect-timeout`.
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The value of `--endpoints` that selects a store in the memory of this process.
const MEMORY_ENDPOINT: &str = "mem:";

/// The section on variables in the help of every subcommand that has [`StoreFlags`], except
/// `bench`.
pub(crate) const ENVIRONMENT_HELP: &str = "\
Environment:
  ETCDCTL_ENDPOINTS, ETCDCTL_USER, ETCDCTL_PASSWORD, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY and
  ETCDCTL_DIAL_TIMEOUT replace the flag of the same name where it is not given. An empty variable
  counts as not set. ETCDCTL_INSECURE_TRANSPORT=false requires TLS where no file is named.";

/// The flags that choose the store and the user.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreFlags {
    /// etcd's client endpoints, separated by commas, or `mem:` for a store in the memory of this
    /// process [default: 127.0.0.1:2379]
    #[arg(long, visible_alias = "endpoint", value_name = "LIST", value_parser = endpoints)]
    endpoints: Option<String>,
    /// User to log in as; `NAME:PASSWORD` unless another flag gives the password
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    user: Option<String>,
    /// Password of the user; other users of this machine can read a command line
    #[arg(long, value_name = "PASSWORD", allow_hyphen_values = true)]
    password: Option<String>,
    /// File whose first line is the password of the user
    #[arg(long, value_name = "FILE", value_parser = path(), conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// Use TLS, and trust the authorities in this file instead of the system's
    #[arg(long, value_name = "FILE", value_parser = path())]
    cacert: Option<PathBuf>,
    /// Use TLS with the client certificate in this file
    #[arg(long, value_name = "FILE", value_parser = path())]
    cert: Option<PathBuf>,
    /// File with the private key of the client certificate
    #[arg(long, value_name = "FILE", value_parser = path())]
    key: Option<PathBuf>,
    /// Timeout of one connection attempt to one member [default: 2s]
    #[arg(long, visible_alias = "dial-timeout", value_name = "TIME")]
    #[arg(value_parser = optional_duration)]
    connect_timeout: Option<String>,
    /// The password from the file. The file is read once, because a pipe cannot be read again.
    #[arg(skip)]
    file_password: Arc<OnceLock<String>>,
}

impl StoreFlags {
    /// The addresses of the members; `None` for a store in memory.
    pub(crate) fn members(&self) -> Result<Option<Vec<String>>> {
        members(&self.settings()?)
    }

    /// The timeout of one connection attempt to one member.
    pub(crate) fn connect_timeout(&self) -> Result<Duration> {
        Ok(self.settings()?.dial_timeout().map_err(into_error)?.unwrap_or(DEFAULT_CONNECT_TIMEOUT))
    }

    /// Connects. Each call opens a new connection, or creates a new store in memory.
    pub(crate) async fn connect(&self) -> Result<Client> {
        self.connect_within(None).await
    }

    /// Connects, and retries for up to `within` while the store is unavailable. `None` is the
    /// default of the library.
    pub(crate) async fn connect_within(&self, within: Option<Duration>) -> Result<Client> {
        let settings = self.settings()?;
        let Some(members) = members(&settings)? else { return Ok(Client::new(MemBackend::new())) };
        let mut builder = settings.builder().map_err(into_error)?;
        if let Some(within) = within {
            builder = builder.connect_within(within);
        }
        let etcd = builder.connect().await.with_context(|| {
            let hint =
                if members == [DEFAULT_ENDPOINT] { ", the default of --endpoints" } else { "" };
            format!("connect to {}{hint}", members.join(","))
        })?;
        Ok(Client::new(etcd))
    }

    /// Reads the certificate files; `None` if TLS is not configured.
    pub(crate) fn certificates(&self) -> Result<Option<Certificates>> {
        self.settings()?.certificates().map_err(into_error)
    }

    /// The settings of the environment and the flags.
    fn settings(&self) -> Result<Settings> {
        self.override_in(Settings::from_env())
    }

    /// Replaces settings by the flags that were given.
    fn override_in(&self, mut settings: Settings) -> Result<Settings> {
        let path = |path: &Option<PathBuf>| path.clone().map(PathBuf::into_os_string);
        let text = |text: &Option<String>| text.clone().map(OsString::from);
        for (variable, flag, value) in [
            (Variable::Endpoints, "--endpoints", text(&self.endpoints)),
            (Variable::User, "--user", text(&self.user)),
            (Variable::Password, "--password", text(&self.password)),
            (Variable::CaCert, "--cacert", path(&self.cacert)),
            (Variable::Cert, "--cert", path(&self.cert)),
            (Variable::Key, "--key", path(&self.key)),
            (Variable::DialTimeout, "--connect-timeout", text(&self.connect_timeout)),
        ] {
            if let Some(value) = value {
                settings.set(variable, flag, value);
            }
        }
        let file = self.password_file.as_deref().filter(|path| !path.as_os_str().is_empty());
        if let Some(path) = file {
            let password = match self.file_password.get() {
                Some(password) => password.clone(),
                None => {
                    let password = read_password(path)?;
                    self.file_password.get_or_init(|| password).clone()
                }
            };
            settings.set(Variable::Password, "--password-file", password);
        }
        Ok(settings)
    }
}

/// Reads the first line of the password file.
fn read_password(path: &Path) -> Result<String> {
    let file = || format!("--password-file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(file)?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => {
            let why = "the first line is empty: write the password there";
            Err(UsageError(format!("{}: {why}", file())).into())
        }
    }
}

/// The addresses of the members; `None` for a store in memory.
fn members(settings: &Settings) -> Result<Option<Vec<String>>> {
    match settings.get(Variable::Endpoints) {
        Some(text) if text == OsStr::new(MEMORY_ENDPOINT) => Ok(None),
        _ => Ok(Some(settings.endpoints().map_err(into_error)?)),
    }
}

/// Converts an error of the settings. A wrong setting is a usage error. A file that cannot be read
/// is not a usage error, because the file may appear later.
fn into_error(error: SettingsError) -> Error {
    if error.is_unreadable_file() { error.into() } else { UsageError(error.to_string()).into() }
}

/// Parses a path that may be empty, which counts as not set. clap's own parser refuses it.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Parses a duration: `300ms`, `10s`, `1m30s`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    environment::duration(text).map_err(|why| anyhow!(why))
}

/// Checks a duration that may be empty, which counts as not set.
fn optional_duration(text: &str) -> Result<String> {
    if !text.is_empty() {
        duration(text)?;
    }
    Ok(text.to_owned())
}

/// Checks a list of endpoints that may be empty, which counts as not set.
fn endpoints(text: &str) -> Result<String, String> {
    if text.is_empty() || text == MEMORY_ENDPOINT {
        return Ok(text.to_owned());
    }
    if text.split(',').any(|member| member.trim() == MEMORY_ENDPOINT) {
        return Err(
            "mem: is a store in memory, and no member of a cluster: give it alone".to_owned()
        );
    }
    let checked = environment::endpoints(text);
    checked.map(|_| text.to_owned()).map_err(|why| text::escape(why.as_bytes()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct TestCli {
        #[command(flatten)]
        flags: StoreFlags,
    }

    /// Parses the flags of a command line, in an empty environment.
    fn parse(line: &str) -> Settings {
        let cli = TestCli::try_parse_from(line.split_whitespace()).expect("it is well-formed");
        cli.flags.override_in(Settings::default()).expect("there is no file")
    }

    fn members_of(line: &str) -> Option<Vec<String>> {
        members(&parse(line)).expect("they are well-formed")
    }

    #[test]
    fn endpoints_are_a_cluster_or_memory() {
        assert_eq!(members_of("coord --endpoints mem:"), None);
        let both = vec!["a:2379".to_owned(), "b:2379".to_owned()];
        assert_eq!(members_of("coord --endpoints a:2379,b:2379").as_ref(), Some(&both));
        assert_eq!(members_of("coord --endpoint a:2379,b:2379").as_ref(), Some(&both));
        assert_eq!(members_of("coord --endpoint ,a:2379,,b:2379,").as_ref(), Some(&both));
        for wrong in [",", "mem:,a:1", "a", "a:65536"] {
            assert!(TestCli::try_parse_from(["coord", "--endpoints", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn empty_flags_count_as_not_set() {
        let line = "coord --endpoints= --user= --password= --cacert= --cert= --key= \
            --connect-timeout=";
        let flags = parse(line);
        assert_eq!(members_of(line), Some(vec![DEFAULT_ENDPOINT.to_owned()]));
        assert_eq!(flags.dial_timeout().expect("the default"), None);
        assert!(flags.login().expect("no login").is_none());
        assert!(flags.certificates().expect("no TLS").is_none());
    }

    #[test]
    fn password_is_read_from_user_or_its_own_flag() {
        let login = |line| {
            parse(line)
                .login()
                .map(|login| login.map(|(user, password)| (user.to_owned(), password.to_owned())))
        };
        let expected = |user: &str| Some((user.to_owned(), "secret".to_owned()));
        assert_eq!(login("coord").expect("no login"), None);
        assert_eq!(login("coord --user app:secret").expect("both are there"), expected("app"));
        let apart = login("coord --user a:b --password secret").expect("both are there");
        assert_eq!(apart, expected("a:b"), "as for etcdctl");
        assert!(login("coord --user app").is_err() && login("coord --password secret").is_err());
    }

    #[test]
    fn certificate_requires_its_key() {
        assert!(parse("coord").certificates().expect("no TLS").is_none());
        let alone = parse("coord --cert nowhere.pem").certificates().expect_err("no key");
        assert_eq!(alone.to_string(), "--cert is given without --key");
        let missing = parse("coord --cacert /nowhere.pem").certificates().expect_err("no file");
        let expected = "--cacert /nowhere.pem: No such file or directory (os error 2)";
        assert_eq!(missing.to_string(), expected);
    }

    #[test]
    fn time_without_a_unit_is_in_seconds() {
        assert_eq!(duration("10").expect("a time"), Duration::from_secs(10));
        assert_eq!(duration("1m30s").expect("a time"), Duration::from_secs(90));
        assert!(duration("soon").is_err());
    }
}
