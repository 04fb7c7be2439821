//! Environment variables of `etcdctl`, as settings of a connection.
//!
//! Each setting records its source, a variable or a flag of the program, so that an error names the
//! source to correct:
//!
//! ```text
//! ETCDCTL_ENDPOINTS=a:b            ETCDCTL_ENDPOINTS: "a:b" is not HOST:PORT, …
//! --endpoints a:b                  --endpoints: "a:b" is not HOST:PORT, …
//! ETCDCTL_CERT=c.pem               ETCDCTL_CERT is given without ETCDCTL_KEY
//! ```

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use coord_core::{Error, error::Outcome};

use crate::address::Address;
use crate::config::ConfigError;
use crate::error::backend_error;
use crate::{EtcdBuilder, Tls};

/// The endpoint unless a setting names another.
const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";

/// Variables of `etcdctl` that this crate does not support, each with the remedy. If they were
/// ignored, a program would use another cluster or refuse a server that `etcdctl` accepts.
const UNSUPPORTED_VARIABLES: [(&str, &str); 2] = [
    (
        "ETCDCTL_INSECURE_SKIP_TLS_VERIFY",
        "unset it, and give the server's certificate, or its CA's, in ETCDCTL_CACERT or --cacert",
    ),
    ("ETCDCTL_DISCOVERY_SRV", "unset it, and list the members in ETCDCTL_ENDPOINTS or --endpoints"),
];

/// The values of a variable that `etcdctl` reads as false: those of Go's `strconv.ParseBool`; and
/// the empty value, which counts as not set.
const FALSE_VALUES: [&str; 7] = ["", "0", "f", "F", "false", "FALSE", "False"];

/// The values of a variable that `etcdctl` reads as true: those of Go's `strconv.ParseBool`.
const TRUE_VALUES: [&str; 6] = ["1", "t", "T", "true", "TRUE", "True"];

/// The variable that, if false, makes `etcdctl` use TLS although no file is configured.
const INSECURE_TRANSPORT_VARIABLE: &str = "ETCDCTL_INSECURE_TRANSPORT";

/// A setting that `etcdctl` reads from its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Variable {
    /// `ETCDCTL_ENDPOINTS`: the members, separated by commas; `127.0.0.1:2379` unless set.
    Endpoints,
    /// `ETCDCTL_USER`: the user; `NAME:PASSWORD` if no password is set.
    User,
    /// `ETCDCTL_PASSWORD`: the user's password.
    Password,
    /// `ETCDCTL_CACERT`: a PEM file with the CAs to trust.
    CaCert,
    /// `ETCDCTL_CERT`: a PEM file with the client certificate.
    Cert,
    /// `ETCDCTL_KEY`: a PEM file with the private key of the client certificate.
    Key,
    /// `ETCDCTL_DIAL_TIMEOUT`: how long a member may take to accept a connection, as `300ms`, `5s`,
    /// `1m30s`, or a number of seconds; two seconds unless set.
    DialTimeout,
}

impl Variable {
    const ALL: [Self; 7] = [
        Self::Endpoints,
        Self::User,
        Self::Password,
        Self::CaCert,
        Self::Cert,
        Self::Key,
        Self::DialTimeout,
    ];

    /// The name of the environment variable.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Endpoints => "ETCDCTL_ENDPOINTS",
            Self::User => "ETCDCTL_USER",
            Self::Password => "ETCDCTL_PASSWORD",
            Self::CaCert => "ETCDCTL_CACERT",
            Self::Cert => "ETCDCTL_CERT",
            Self::Key => "ETCDCTL_KEY",
            Self::DialTimeout => "ETCDCTL_DIAL_TIMEOUT",
        }
    }
}

/// Settings of a connection, from the environment of `etcdctl` and from a program's flags.
///
/// [`EtcdBuilder::from_env`] is the short form for programs without flags of their own.
///
/// ```
/// use coord_etcd::environment::{Settings, SettingsError, Variable};
///
/// # fn main() -> Result<(), SettingsError> {
/// let mut settings = Settings::from_env();
/// // A flag wins over the variable, and errors name the flag.
/// settings.set(Variable::Endpoints, "--endpoints", "a.example:2379,b.example:2379");
/// assert_eq!(settings.endpoints()?, ["a.example:2379", "b.example:2379"]);
/// # Ok(())
/// # }
/// ```
///
/// A setting with an empty value counts as not set.
#[derive(Clone, Default)]
pub struct Settings {
    settings: BTreeMap<Variable, Setting>,
    /// The value of [`INSECURE_TRANSPORT_VARIABLE`], which has no flag.
    insecure_transport: Option<OsString>,
    unsupported: Option<Unsupported>,
}

/// A variable of [`UNSUPPORTED_VARIABLES`] that is set.
#[derive(Clone)]
struct Unsupported {
    name: &'static str,
    value: OsString,
    remedy: &'static str,
}

#[derive(Clone)]
struct Setting {
    value: OsString,
    /// The variable or flag that the value came from.
    source: &'static str,
}

/// The settings that name a file of certificates or a key.
struct TlsFiles<'a> {
    authorities: Option<&'a Setting>,
    /// The client's certificate and its key.
    identity: Option<(&'a Setting, &'a Setting)>,
}

/// Certificates for TLS, in PEM.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Certificates {
    /// The CAs to trust; `None` for the system's.
    pub authorities: Option<Vec<u8>>,
    /// The client's certificate and its private key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates")
            .field("authorities", &self.authorities.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

impl Settings {
    /// Reads the environment of this process. Values are checked when they are used, because a
    /// flag may replace one.
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// Reads variables from `lookup`, which returns a variable's value by its name.
    pub fn from_variables(lookup: impl Fn(&str) -> Option<OsString>) -> Self {
        let mut settings = Self::default();
        for variable in Variable::ALL {
            if let Some(value) = lookup(variable.name()) {
                settings.set(variable, variable.name(), value);
            }
        }
        settings.insecure_transport =
            lookup(INSECURE_TRANSPORT_VARIABLE).filter(|value| !value.is_empty());
        settings.unsupported = UNSUPPORTED_VARIABLES.into_iter().find_map(|(name, remedy)| {
            let value = lookup(name).filter(|value| !is_any_of(value, &FALSE_VALUES))?;
            Some(Unsupported { name, value, remedy })
        });
        settings
    }

    /// Replaces a setting. `source` is the flag that the value came from, for errors. An empty
    /// value removes the setting.
    pub fn set(&mut self, variable: Variable, source: &'static str, value: impl Into<OsString>) {
        let value = value.into();
        if value.is_empty() {
            self.settings.remove(&variable);
        } else {
            self.settings.insert(variable, Setting { value, source });
        }
    }

    /// The unchecked value of a setting; `None` if it is not set.
    #[must_use]
    pub fn get(&self, variable: Variable) -> Option<&OsStr> {
        self.settings.get(&variable).map(|setting| &*setting.value)
    }

    /// The members' addresses.
    ///
    /// # Errors
    /// An address is neither `HOST:PORT` nor a URL, or the list is empty.
    pub fn endpoints(&self) -> Result<Vec<String>, SettingsError> {
        let Some((text, source)) = self.text(Variable::Endpoints)? else {
            return Ok(vec![DEFAULT_ENDPOINT.to_owned()]);
        };
        endpoints(text).map_err(|reason| SettingsError::new(source, reason))
    }

    /// How long a member may take to accept a connection; `None` if the setting is not set.
    ///
    /// # Errors
    /// The value is not a duration.
    pub fn dial_timeout(&self) -> Result<Option<Duration>, SettingsError> {
        let Some((text, source)) = self.text(Variable::DialTimeout)? else { return Ok(None) };
        match duration(text) {
            Ok(timeout) => Ok(Some(timeout)),
            Err(remedy) => {
                Err(SettingsError::new(source, format!("invalid duration {text:?}: {remedy}")))
            }
        }
    }

    /// The user and the password; `None` without a login.
    ///
    /// # Errors
    /// The user is set without the password, or the password without the user.
    pub fn login(&self) -> Result<Option<(&str, &str)>, SettingsError> {
        match (self.text(Variable::User)?, self.text(Variable::Password)?) {
            (None, None) => Ok(None),
            (Some((user, _)), Some((password, _))) => Ok(Some((user, password))),
            (Some((both, source)), None) => both.split_once(':').map(Some).ok_or_else(|| {
                let user = format!("user {both:?} has no password");
                SettingsError::new(source, format!("{user}: give one, or NAME:PASSWORD"))
            }),
            (None, Some((_, source))) => {
                let reason = "a password is given without a user: give both".to_owned();
                Err(SettingsError::new(source, reason))
            }
        }
    }

    /// The certificates for TLS, read from the files; `None` if no file is configured, unless
    /// `ETCDCTL_INSECURE_TRANSPORT` is false.
    ///
    /// # Errors
    /// A client certificate is set without its key or a key without its certificate, a file cannot
    /// be read, or `ETCDCTL_INSECURE_TRANSPORT` is neither true nor false.
    pub fn certificates(&self) -> Result<Option<Certificates>, SettingsError> {
        let TlsFiles { authorities, identity } = self.tls_files()?;
        let authorities = authorities.map(Setting::read).transpose()?;
        let identity = match identity {
            Some((certificate, key)) => Some((certificate.read()?, key.read()?)),
            None => None,
        };
        let uses_tls = identity.is_some() || authorities.is_some() || self.requires_tls()?;
        Ok(uses_tls.then_some(Certificates { authorities, identity }))
    }

    /// The TLS options for the builder. They include the paths, so that errors name the files.
    fn tls(&self) -> Result<Option<Tls>, SettingsError> {
        let TlsFiles { authorities, identity } = self.tls_files()?;
        if authorities.is_none() && identity.is_none() && !self.requires_tls()? {
            return Ok(None);
        }
        let mut tls = Tls::new();
        if let Some(authorities) = authorities {
            tls = tls.ca_read(authorities.path(), authorities.read()?);
        }
        if let Some((certificate, key)) = identity {
            let certificate = (certificate.path(), certificate.read()?);
            tls = tls.identity_read(certificate, (key.path(), key.read()?));
        }
        Ok(Some(tls))
    }

    /// Whether the connection must be encrypted although no file is configured.
    fn requires_tls(&self) -> Result<bool, SettingsError> {
        let Some(value) = &self.insecure_transport else { return Ok(false) };
        match (is_any_of(value, &FALSE_VALUES), is_any_of(value, &TRUE_VALUES)) {
            (true, _) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => {
                let reason = format!("invalid value {:?}: write true or false", value.display());
                Err(SettingsError::new(INSECURE_TRANSPORT_VARIABLE, reason))
            }
        }
    }

    /// The files of certificates and keys. A client certificate without its key, or a key without
    /// its certificate, is refused.
    fn tls_files(&self) -> Result<TlsFiles<'_>, SettingsError> {
        let (certificate, key) =
            (self.settings.get(&Variable::Cert), self.settings.get(&Variable::Key));
        let identity = match (certificate, key) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(certificate), None) => return Err(certificate.missing(Variable::Key)),
            (None, Some(key)) => return Err(key.missing(Variable::Cert)),
        };
        Ok(TlsFiles { authorities: self.settings.get(&Variable::CaCert), identity })
    }

    /// A builder with all settings applied.
    ///
    /// # Errors
    /// A setting is invalid, a password would be sent in clear text although TLS is configured, a
    /// file cannot be read, or a variable is set that this crate does not support. No endpoint was
    /// dialled.
    pub fn builder(&self) -> Result<EtcdBuilder, SettingsError> {
        if let Some(Unsupported { name, value, remedy }) = &self.unsupported {
            let reason =
                format!("not supported, but set to {:?}: {remedy}", value.to_string_lossy());
            return Err(SettingsError::new(name, reason));
        }
        let endpoints = self.endpoints()?;
        let (tls, login) = (self.tls()?, self.login()?);
        for endpoint in &endpoints {
            Address::parse(endpoint, tls.is_some(), login.is_some())
                .map_err(|error| self.endpoint_error(&error))?;
        }
        let mut builder = EtcdBuilder::new(endpoints);
        if let Some(timeout) = self.dial_timeout()? {
            builder = builder.connect_timeout(timeout);
        }
        if let Some((user, password)) = login {
            builder = builder.login(user, password);
        }
        if let Some(tls) = tls {
            builder = builder.tls(tls);
        }
        Ok(builder)
    }

    /// The error for an endpoint that conflicts with the other settings.
    fn endpoint_error(&self, error: &ConfigError) -> SettingsError {
        let endpoints = self.settings.get(&Variable::Endpoints);
        let source = endpoints.map_or(Variable::Endpoints.name(), |setting| setting.source);
        SettingsError::new(source, error.to_string())
    }

    /// A setting as text, and its source.
    fn text(&self, variable: Variable) -> Result<Option<(&str, &'static str)>, SettingsError> {
        let Some(Setting { value, source }) = self.settings.get(&variable) else { return Ok(None) };
        match value.to_str() {
            Some(text) => Ok(Some((text, source))),
            None => Err(SettingsError::new(source, "the value is not UTF-8".to_owned())),
        }
    }
}

fn is_any_of(value: &OsStr, known: &[&str]) -> bool {
    known.iter().any(|known| value == *known)
}

impl EtcdBuilder {
    /// Reads the environment variables of `etcdctl`, so that a program reaches the cluster that
    /// `etcdctl` reaches from the same shell.
    ///
    /// The variables are `ETCDCTL_ENDPOINTS`, `ETCDCTL_USER`, `ETCDCTL_PASSWORD`, `ETCDCTL_CACERT`,
    /// `ETCDCTL_CERT`, `ETCDCTL_KEY` and `ETCDCTL_DIAL_TIMEOUT`. If `ETCDCTL_INSECURE_TRANSPORT` is
    /// false, connections are encrypted even if no file is configured, and then trust the system's
    /// CAs.
    ///
    /// ```no_run
    /// use coord_etcd::EtcdBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> coord_core::Result<()> {
    /// let etcd = EtcdBuilder::from_env()?.connect().await?;
    /// # let _ = etcd;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Settings::builder`]. The error names the variable.
    pub fn from_env() -> Result<Self, SettingsError> {
        Settings::from_env().builder()
    }
}

impl Setting {
    fn path(&self) -> PathBuf {
        PathBuf::from(&self.value)
    }

    fn read(&self) -> Result<Vec<u8>, SettingsError> {
        let path = Path::new(&self.value);
        std::fs::read(path).map_err(|error| SettingsError {
            message: format!("{} {}: {error}", self.source, path.display()),
            source: Some(Arc::new(error)),
        })
    }

    /// The error for a setting that is set without `other`, which it needs. It names both as flags
    /// or both as variables.
    fn missing(&self, other: Variable) -> SettingsError {
        let other = match (self.source.starts_with("--"), other) {
            (true, Variable::Key) => "--key",
            (true, _) => "--cert",
            (false, other) => other.name(),
        };
        SettingsError { message: format!("{} is given without {other}", self.source), source: None }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sources = self.settings.iter().map(|(variable, setting)| (variable, setting.source));
        f.debug_map().entries(sources).finish()
    }
}

/// An invalid setting, or a setting whose file cannot be read. The message names the variable or
/// the flag that the setting came from.
#[derive(Clone, Debug)]
pub struct SettingsError {
    message: String,
    source: Option<Arc<io::Error>>,
}

impl SettingsError {
    fn new(source: &str, reason: String) -> Self {
        Self { message: format!("{source}: {reason}"), source: None }
    }

    /// Whether the setting is valid, but the file that it names cannot be read.
    #[must_use]
    pub const fn is_unreadable_file(&self) -> bool {
        self.source.is_some()
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Without a source, because the message contains the message of the file's error.
impl std::error::Error for SettingsError {}

impl From<SettingsError> for Error {
    fn from(error: SettingsError) -> Self {
        backend_error(Outcome::NotApplied, error)
    }
}

/// Parses the addresses of members, separated by commas.
///
/// # Errors
/// An address is neither `HOST:PORT` nor a URL, or the list is empty. The message quotes the
/// address.
pub fn endpoints(text: &str) -> Result<Vec<String>, String> {
    let members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    let members: Vec<_> = members.map(check_member).collect::<Result<_, _>>()?;
    if members.is_empty() {
        return Err("the list is empty: give HOST:PORT, such as 127.0.0.1:2379".to_owned());
    }
    Ok(members)
}

/// Parses a duration: `300ms`, `10s`, `1m30s`, or a number of seconds.
///
/// # Errors
/// The text is not a duration. The message lists the valid formats.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    humantime::parse_duration(text).map_err(|_| "write 300ms, 10s, 1m30s, or a number of seconds")
}

/// Checks the address of a member. An unknown scheme is refused, and so is an address without a
/// scheme that has no valid port, because the client would dial port 80.
fn check_member(text: &str) -> Result<String, String> {
    Address::parse(text, false, false).map_err(|error| error.to_string())?;
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, text),
    };
    let start = text.split(':').next().unwrap_or_default();
    let is_path = ["unix", "unixs"].iter().any(|local| start.eq_ignore_ascii_case(local));
    let authority = rest.split('/').next().unwrap_or_default();
    let well_formed = match authority.rsplit_once(':') {
        _ if is_path => true,
        Some((host, port)) if !port.ends_with(']') => {
            let host_is_whole = !host.contains(':') || host.starts_with('[');
            !host.is_empty() && host_is_whole && port.parse::<u16>().is_ok()
        }
        _ => scheme.is_some() && !authority.is_empty(),
    };
    if well_formed {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not HOST:PORT, such as 127.0.0.1:2379 or [::1]:2379"))
    }
}

#[cfg(test)]
mod tests;
