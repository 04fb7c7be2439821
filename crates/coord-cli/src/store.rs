//! How to reach the store: the same flags, and the same environment, for every subcommand.
//!
//! Names are those of `etcdctl`, flags and variables alike, so that what is set up for the one
//! serves the other. `mem:` is a store in the memory of this process, to try things out.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use coord_core::KvBackend;
use coord_etcd::environment::{self, Certificates, Settings, SettingsError, Variable};
use coord_mem::MemBackend;

use crate::end::Misused;
use crate::text;

/// Where etcd listens, and how long a member may take, unless something else is said.
const ENDPOINTS: &str = "127.0.0.1:2379";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The store in the memory of this process, in place of endpoints.
const MEM: &str = "mem:";

/// For the help of every subcommand that has these flags.
pub(crate) const ENVIRONMENT: &str = "\
Environment:
  ETCDCTL_ENDPOINTS, ETCDCTL_USER, ETCDCTL_PASSWORD, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY,
  ETCDCTL_DIAL_TIMEOUT stand for the flags of the same name, which win over them; an empty one
  counts as not set. ETCDCTL_INSECURE_TRANSPORT=false demands TLS where no file is named.";

/// Where the store is, and as whom to reach it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreFlags {
    /// etcd's client endpoints, with commas in between, or `mem:` for a store in the memory of this
    /// process [default: 127.0.0.1:2379]
    #[arg(long, visible_alias = "endpoint", value_name = "LIST", value_parser = endpoints)]
    endpoints: Option<String>,
    /// Log in as this user; `NAME:PASSWORD` if no password is given otherwise
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    user: Option<String>,
    /// The user's password; other users of this machine can read a command line
    #[arg(long, value_name = "PASSWORD", allow_hyphen_values = true)]
    password: Option<String>,
    /// Read the user's password from the first line of this file
    #[arg(long, value_name = "FILE", value_parser = path(), conflicts_with = "password")]
    password_file: Option<PathBuf>,
    /// Speak TLS, and trust the authorities in this file instead of the system's
    #[arg(long, value_name = "FILE", value_parser = path())]
    cacert: Option<PathBuf>,
    /// Speak TLS, and show the certificate in this file
    #[arg(long, value_name = "FILE", value_parser = path())]
    cert: Option<PathBuf>,
    /// The private key of that certificate
    #[arg(long, value_name = "FILE", value_parser = path())]
    key: Option<PathBuf>,
    /// How long a member may take to accept a connection [default: 2s]
    #[arg(long, visible_alias = "dial-timeout", value_name = "TIME", value_parser = time)]
    connect_timeout: Option<String>,
    /// What is in the password file. It is read once, because a pipe cannot be read again.
    #[arg(skip)]
    password_read: Arc<OnceLock<String>>,
}

impl StoreFlags {
    /// The addresses of the members; `None` for a store in memory.
    pub(crate) fn members(&self) -> Result<Option<Vec<String>>> {
        members(&self.settings()?)
    }

    /// How long a member may take to accept a connection.
    pub(crate) fn connect_timeout(&self) -> Result<Duration> {
        Ok(self.settings()?.dial_timeout().map_err(misused)?.unwrap_or(CONNECT_TIMEOUT))
    }

    /// Connects; on each call anew, and in memory to a new store.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn KvBackend>> {
        self.connect_within(None).await
    }

    /// Connects, and waits so long for a store that is not there yet; as long as the library does
    /// by default with `None`.
    pub(crate) async fn connect_within(
        &self,
        within: Option<Duration>,
    ) -> Result<Arc<dyn KvBackend>> {
        let settings = self.settings()?;
        let Some(members) = members(&settings)? else { return Ok(Arc::new(MemBackend::new())) };
        let mut builder = settings.builder().map_err(misused)?;
        if let Some(within) = within {
            builder = builder.connect_within(within);
        }
        let etcd = builder.connect().await.with_context(|| {
            let hint = if members == [ENDPOINTS] { ", the default of --endpoints" } else { "" };
            format!("connect to {}{hint}", members.join(","))
        })?;
        Ok(Arc::new(etcd))
    }

    /// What is in the files, read anew; `None` if TLS is not asked for.
    pub(crate) fn certificates(&self) -> Result<Option<Certificates>> {
        self.settings()?.certificates().map_err(misused)
    }

    fn settings(&self) -> Result<Settings> {
        self.over(Settings::from_env())
    }

    /// Replaces settings of the environment by the flags that were given.
    fn over(&self, mut settings: Settings) -> Result<Settings> {
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
            let password = match self.password_read.get() {
                Some(password) => password.clone(),
                None => {
                    let password = password(path)?;
                    self.password_read.get_or_init(|| password).clone()
                }
            };
            settings.set(Variable::Password, "--password-file", password);
        }
        Ok(settings)
    }
}

/// The first line of a file.
fn password(path: &Path) -> Result<String> {
    let file = || format!("--password-file {}", path.display());
    let text = std::fs::read_to_string(path).with_context(file)?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        _ => Err(Misused(format!("{}: the first line is empty", file())).into()),
    }
}

fn members(settings: &Settings) -> Result<Option<Vec<String>>> {
    match settings.get(Variable::Endpoints) {
        Some(text) if text == OsStr::new(MEM) => Ok(None),
        _ => Ok(Some(settings.endpoints().map_err(misused)?)),
    }
}

/// A setting that is wrong is misuse; a file that cannot be read may be there later.
fn misused(error: SettingsError) -> Error {
    if error.is_unreadable_file() { error.into() } else { Misused(error.to_string()).into() }
}

/// A file, of which nothing need be named: clap would refuse that.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A time: `300ms`, `10s`, `1m30s`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    environment::duration(text).map_err(|why| anyhow!(why))
}

/// A time that may be empty, which counts as not set.
fn time(text: &str) -> Result<String> {
    if !text.is_empty() {
        duration(text)?;
    }
    Ok(text.to_owned())
}

/// Endpoints that may be empty, which counts as not set.
fn endpoints(text: &str) -> Result<String, String> {
    if text.is_empty() || text == MEM {
        return Ok(text.to_owned());
    }
    if text.split(',').any(|member| member.trim() == MEM) {
        return Err("mem: is a store of its own, and no member of a cluster".to_owned());
    }
    let checked = environment::endpoints(text);
    checked.map(|_| text.to_owned()).map_err(|why| text::line(why.as_bytes()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        flags: StoreFlags,
    }

    /// The settings of these flags, in an empty environment.
    fn parsed(line: &str) -> Settings {
        let line = Line::try_parse_from(line.split_whitespace()).expect("it is well-formed");
        line.flags.over(Settings::default()).expect("there is no file")
    }

    fn members_of(line: &str) -> Option<Vec<String>> {
        members(&parsed(line)).expect("they are well-formed")
    }

    #[test]
    fn endpoints_are_a_cluster_or_memory() {
        assert_eq!(members_of("coord --endpoints mem:"), None);
        let both = vec!["a:2379".to_owned(), "b:2379".to_owned()];
        assert_eq!(members_of("coord --endpoints a:2379,b:2379").as_ref(), Some(&both));
        assert_eq!(members_of("coord --endpoint a:2379,b:2379").as_ref(), Some(&both));
        assert_eq!(members_of("coord --endpoint ,a:2379,,b:2379,").as_ref(), Some(&both));
        for wrong in [",", "mem:,a:1", "a", "a:65536"] {
            assert!(Line::try_parse_from(["coord", "--endpoints", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn empty_flags_count_as_not_set() {
        let line = "coord --endpoints= --user= --password= --cacert= --cert= --key= \
            --connect-timeout=";
        let flags = parsed(line);
        assert_eq!(members_of(line), Some(vec![ENDPOINTS.to_owned()]));
        assert_eq!(flags.dial_timeout().expect("the default"), None);
        assert!(flags.login().expect("nobody logs in").is_none());
        assert!(flags.certificates().expect("no TLS").is_none());
    }

    #[test]
    fn password_is_read_from_user_or_its_own_flag() {
        let login = |line| {
            parsed(line)
                .login()
                .map(|login| login.map(|(user, password)| (user.to_owned(), password.to_owned())))
        };
        let expected = |user: &str| Some((user.to_owned(), "secret".to_owned()));
        assert_eq!(login("coord").expect("nobody logs in"), None);
        assert_eq!(login("coord --user app:secret").expect("both are there"), expected("app"));
        let apart = login("coord --user a:b --password secret").expect("both are there");
        assert_eq!(apart, expected("a:b"), "as for etcdctl");
        assert!(login("coord --user app").is_err() && login("coord --password secret").is_err());
    }

    #[test]
    fn certificate_requires_its_key() {
        assert!(parsed("coord").certificates().expect("no TLS").is_none());
        let alone = parsed("coord --cert nowhere.pem").certificates().expect_err("no key");
        assert_eq!(alone.to_string(), "--cert is given without --key");
        let missing = parsed("coord --cacert /nowhere.pem").certificates().expect_err("no file");
        let told = "--cacert /nowhere.pem: No such file or directory (os error 2)";
        assert_eq!(missing.to_string(), told);
    }

    #[test]
    fn time_without_a_unit_is_in_seconds() {
        assert_eq!(duration("10").expect("a time"), Duration::from_secs(10));
        assert_eq!(duration("1m30s").expect("a time"), Duration::from_secs(90));
        assert!(duration("soon").is_err());
    }
}
