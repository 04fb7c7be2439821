//! How to reach the store: the same flags, and the same environment, for every subcommand.
//!
//! Names are those of `etcdctl`, flags and variables alike, so that what is set up for the one
//! serves the other. `mem:` is a store in the memory of this process, to try things out.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use coord_core::KvBackend;
use coord_etcd::{EtcdBackend, Tls};
use coord_mem::MemBackend;

use crate::end::Misused;

/// Where etcd listens, and how long a member may take, unless something else is said.
const ENDPOINTS: &str = "127.0.0.1:2379";
const CONNECT_TIMEOUT: &str = "2s";

/// For the help of every subcommand that has these flags.
pub(crate) const ENVIRONMENT: &str = "\
Environment:
  ETCDCTL_ENDPOINTS, ETCDCTL_USER, ETCDCTL_PASSWORD, ETCDCTL_CACERT, ETCDCTL_CERT, ETCDCTL_KEY,
  ETCDCTL_DIAL_TIMEOUT stand for the flags of the same name, which win over them; an empty one
  counts as not set.";

/// Where the store is, and as whom to reach it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Store")]
pub(crate) struct StoreFlags {
    /// etcd's client endpoints, with commas in between, or `mem:` for a store in the memory of this
    /// process
    #[arg(
        long,
        visible_alias = "endpoint",
        env = "ETCDCTL_ENDPOINTS",
        hide_env = true,
        value_name = "LIST",
        default_value = ENDPOINTS
    )]
    endpoints: Endpoints,
    /// Log in as this user; `NAME:PASSWORD` if there is no `--password`
    #[arg(long, env = "ETCDCTL_USER", hide_env = true, value_name = "NAME")]
    user: Option<String>,
    /// The user's password
    #[arg(long, env = "ETCDCTL_PASSWORD", hide_env = true, value_name = "PASSWORD")]
    password: Option<String>,
    /// Speak TLS, and trust the authorities in this file instead of the system's
    #[arg(long, env = "ETCDCTL_CACERT", hide_env = true)]
    #[arg(value_name = "FILE", value_parser = path())]
    cacert: Option<PathBuf>,
    /// Speak TLS, and show the certificate in this file
    #[arg(long, env = "ETCDCTL_CERT", hide_env = true)]
    #[arg(value_name = "FILE", value_parser = path())]
    cert: Option<PathBuf>,
    /// The private key of that certificate
    #[arg(long, env = "ETCDCTL_KEY", hide_env = true)]
    #[arg(value_name = "FILE", value_parser = path())]
    key: Option<PathBuf>,
    /// How long a member may take to accept a connection
    #[arg(
        long,
        visible_alias = "dial-timeout",
        env = "ETCDCTL_DIAL_TIMEOUT",
        hide_env = true,
        value_name = "TIME",
        default_value = CONNECT_TIMEOUT,
        value_parser = connect_timeout,
    )]
    connect_timeout: Duration,
}

/// What to speak TLS with, read from its files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Certificates {
    pub(crate) authorities: Option<Vec<u8>>,
    /// A certificate and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl StoreFlags {
    /// The addresses of the members; `None` for a store in memory.
    pub(crate) fn members(&self) -> Option<&[String]> {
        match &self.endpoints {
            Endpoints::Mem => None,
            Endpoints::Etcd(members) => Some(members),
        }
    }

    /// How long a member may take to accept a connection.
    pub(crate) const fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    /// Connects; on each call anew, and in memory to a new store.
    pub(crate) async fn connect(&self) -> Result<Arc<dyn KvBackend>> {
        self.connect_within(None).await
    }

    /// Connects, and waits so long for a store that is not there yet.
    pub(crate) async fn connect_within(
        &self,
        within: Option<Duration>,
    ) -> Result<Arc<dyn KvBackend>> {
        match &self.endpoints {
            Endpoints::Mem => Ok(Arc::new(MemBackend::new())),
            Endpoints::Etcd(members) => {
                refuse_unsupported(|name| std::env::var(name).ok())?;
                Ok(Arc::new(self.connect_to(members, within).await?))
            }
        }
    }

    async fn connect_to(
        &self,
        members: &[String],
        within: Option<Duration>,
    ) -> Result<EtcdBackend> {
        let mut builder = EtcdBackend::builder(members).connect_timeout(self.connect_timeout);
        if let Some(within) = within {
            builder = builder.connect_within(within);
        }
        if let Some((user, password)) = self.login()? {
            builder = builder.login(user, password);
        }
        // Complains of one file without the other; what is in them is for the library to read.
        if self.certificates()?.is_some() {
            let mut tls = Tls::new();
            if let Some(path) = file(&self.cacert) {
                tls = tls.ca_file(path);
            }
            if let (Some(certificate), Some(key)) = (file(&self.cert), file(&self.key)) {
                tls = tls.identity_files(certificate, key);
            }
            builder = builder.tls(tls);
        }
        builder.connect().await.with_context(|| {
            let hint = if members == [ENDPOINTS] { ", the default of --endpoints" } else { "" };
            format!("connect to {}{hint}", members.join(","))
        })
    }

    /// The user and the password.
    fn login(&self) -> Result<Option<(&str, &str)>> {
        match (set(&self.user), set(&self.password)) {
            (None, None) => Ok(None),
            (Some(user), Some(password)) => Ok(Some((user, password))),
            (Some(both), None) => match both.split_once(':') {
                Some(login) => Ok(Some(login)),
                None => misused(&format!(
                    "user {both} has no password: give --password, or NAME:PASSWORD"
                )),
            },
            (None, Some(_)) => misused("a password is given, but no --user"),
        }
    }

    /// What is in the files, read anew; `None` if TLS is not asked for.
    pub(crate) fn certificates(&self) -> Result<Option<Certificates>> {
        let identity = match (file(&self.cert), file(&self.key)) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            (Some(_), None) => return misused("--cert is given without --key"),
            (None, Some(_)) => return misused("--key is given without --cert"),
        };
        let authorities = file(&self.cacert).map(read).transpose()?;
        let wanted = identity.is_some() || authorities.is_some();
        Ok(wanted.then_some(Certificates { authorities, identity }))
    }
}

/// Variables of `etcdctl` that coord does not honour, and what to do instead.
const UNSUPPORTED: [(&str, &str); 2] = [
    (
        "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
        "coord verifies every server: unset it, and give the server's certificate as --cacert",
    ),
    ("ETCDCTL_DISCOVERY_SRV", "unset it, and give the members as --endpoints"),
];

/// Refuses what would change where coord connects to, or whom it trusts, if it were honoured.
fn refuse_unsupported(variable: impl Fn(&str) -> Option<String>) -> Result<()> {
    for (name, remedy) in UNSUPPORTED {
        let value = variable(name).unwrap_or_default();
        if !["", "0", "f", "F", "false", "FALSE", "False"].contains(&value.as_str()) {
            return misused(&format!("{name}={value} is not supported: {remedy}"));
        }
    }
    Ok(())
}

fn misused<T>(why: &str) -> Result<T> {
    Err(Misused(why.to_owned()).into())
}

/// What is set to nothing counts as not set, as for `etcdctl`.
fn set(value: &Option<String>) -> Option<&str> {
    value.as_deref().filter(|value| !value.is_empty())
}

fn file(path: &Option<PathBuf>) -> Option<&Path> {
    path.as_deref().filter(|path| !path.as_os_str().is_empty())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| path.display().to_string())
}

/// A file, of which nothing need be named: clap would refuse that.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A time: `300ms`, `10s`, `1m30s`, or a number of seconds.
pub(crate) fn duration(text: &str) -> Result<Duration> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    // What humantime says of a wrong one is for who knows what it expects.
    humantime::parse_duration(text)
        .map_err(|_| anyhow!("write 300ms, 10s, 1m30s, or a number of seconds"))
}

fn connect_timeout(text: &str) -> Result<Duration> {
    duration(if text.is_empty() { CONNECT_TIMEOUT } else { text })
}

/// Where the store is.
#[derive(Clone, Debug, PartialEq)]
enum Endpoints {
    /// In the memory of this process.
    Mem,
    /// An etcd cluster, by the addresses of its members.
    Etcd(Vec<String>),
}

impl FromStr for Endpoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "mem:" {
            return Ok(Self::Mem);
        }
        let text = if text.is_empty() { ENDPOINTS } else { text };
        let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
        let members: Vec<_> = members.map(member).collect::<Result<_, _>>()?;
        if members.is_empty() { Err("there is none".to_owned()) } else { Ok(Self::Etcd(members)) }
    }
}

/// The address of a member. One without a port, or with one that is no port, would mean port 80.
fn member(text: &str) -> Result<String, String> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let authority = rest.split('/').next().unwrap_or_default();
    let well_formed = match authority.rsplit_once(':') {
        _ if is_socket(text) => true,
        Some((host, port)) if !port.ends_with(']') => {
            let host_is_whole = !host.contains(':') || host.starts_with('[');
            !host.is_empty() && host_is_whole && port.parse::<u16>().is_ok()
        }
        _ => scheme.is_some() && !authority.is_empty(),
    };
    if text == "mem:" {
        Err("mem: is a store of its own, and no member of a cluster".to_owned())
    } else if well_formed {
        Ok(text.to_owned())
    } else {
        Err(format!("{text} is not HOST:PORT, such as 127.0.0.1:2379 or [::1]:2379"))
    }
}

/// Whether the address is a path in the file system.
fn is_socket(text: &str) -> bool {
    let scheme = text.split(':').next().unwrap_or_default();
    ["unix", "unixs"].iter().any(|socket| scheme.eq_ignore_ascii_case(socket))
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

    fn parsed(line: &str) -> StoreFlags {
        Line::try_parse_from(line.split_whitespace()).expect("it is well-formed").flags
    }

    #[test]
    fn endpoints_are_a_cluster_or_memory() {
        assert_eq!(parsed("coord --endpoints mem:").members(), None);
        let both = ["a:2379".to_owned(), "b:2379".to_owned()];
        assert_eq!(parsed("coord --endpoints a:2379,b:2379").members(), Some(&both[..]));
        assert_eq!(parsed("coord --endpoint a:2379,b:2379").members(), Some(&both[..]));
        assert_eq!(parsed("coord --endpoint ,a:2379,,b:2379,").members(), Some(&both[..]));
    }

    #[test]
    fn what_is_set_to_nothing_counts_as_not_set() {
        let line = "coord --endpoints= --user= --password= --cacert= --cert= --key= \
            --connect-timeout=";
        let flags = parsed(line);
        assert_eq!(flags.members(), Some(&[ENDPOINTS.to_owned()][..]));
        assert_eq!(flags.connect_timeout(), Duration::from_secs(2));
        assert!(flags.login().expect("nobody logs in").is_none());
        assert!(flags.certificates().expect("no TLS").is_none());
    }

    #[test]
    fn address_that_would_mean_another_port_is_refused() {
        for good in
            ["a:1", "http://a", "https://a:1/", "HTTP://a:1", "[::1]:1", "UNIX:/a", "unixs:///a/b"]
        {
            assert_eq!(member(good), Ok(good.to_owned()));
        }
        for bad in
            ["a", "a:", ":1", "a:b", "a:65536", "::1", "::1:1", "[::1]", "https://a:x", "mem:"]
        {
            assert!(member(bad).is_err(), "{bad}");
        }
        assert!(Endpoints::from_str(",").is_err() && Endpoints::from_str("mem:,a:1").is_err());
    }

    #[test]
    fn unsupported_variable_is_refused_by_name_with_the_remedy() {
        for (name, value, remedy) in [
            ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true", "--cacert"),
            ("ETCDCTL_DISCOVERY_SRV", "example.com", "--endpoints"),
        ] {
            let with = |value: &str| {
                let value = value.to_owned();
                refuse_unsupported(move |asked| (asked == name).then(|| value.clone()))
            };
            let said = with(value).expect_err("it is set").to_string();
            assert!(said.contains(name) && said.contains(remedy), "{said}");
            assert!(with("").is_ok() && with("false").is_ok());
        }
    }

    #[test]
    fn password_stands_behind_the_user_or_for_itself() {
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
    fn certificate_and_key_go_together() {
        assert!(parsed("coord").certificates().expect("no TLS").is_none());
        let alone = parsed("coord --cert nowhere.pem").certificates().expect_err("no key");
        assert_eq!(alone.to_string(), "--cert is given without --key");
        let missing = parsed("coord --cacert /nowhere.pem").certificates().expect_err("no file");
        assert_eq!(missing.to_string(), "/nowhere.pem");
    }

    #[test]
    fn time_without_a_unit_is_in_seconds() {
        assert_eq!(duration("10").expect("a time"), Duration::from_secs(10));
        assert_eq!(duration("1m30s").expect("a time"), Duration::from_secs(90));
        assert!(duration("soon").is_err());
    }
}
