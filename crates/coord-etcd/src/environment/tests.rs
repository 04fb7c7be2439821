//! Tests of settings from variables and flags.

use super::*;

/// The settings from these variables.
fn settings_of(variables: &[(&str, &str)]) -> Settings {
    let variables: Vec<_> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect();
    Settings::from_variables(|wanted| {
        variables.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone())
    })
}

/// The error message of a builder for these settings.
fn builder_error(settings: &Settings) -> String {
    settings.builder().map(drop).expect_err("a setting is invalid").to_string()
}

#[test]
fn unset_variables_leave_the_defaults() {
    let settings =
        settings_of(&[("ETCDCTL_CACERT", ""), ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "false")]);
    assert_eq!(settings.endpoints().expect("the default"), ["127.0.0.1:2379"]);
    assert_eq!(settings.dial_timeout().expect("none"), None);
    assert_eq!(settings.login().expect("none"), None);
    let options = settings.builder().expect("the settings are valid").options;
    assert!(options.tls.is_none() && options.login.is_none(), "{options:?}");
}

#[test]
fn set_variables_reach_the_builder() {
    let folder = std::env::temp_dir().join(format!("coord-environment-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let file = folder.join("ca.pem");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----").expect("a file");
    let settings = settings_of(&[
        ("ETCDCTL_ENDPOINTS", "a:1, b:2"),
        ("ETCDCTL_USER", "app:secret"),
        ("ETCDCTL_CACERT", file.to_str().expect("UTF-8")),
        ("ETCDCTL_DIAL_TIMEOUT", "1m30s"),
    ]);
    let options = settings.builder().expect("the settings are valid").options;
    std::fs::remove_dir_all(&folder).expect("it is there");
    assert_eq!(options.endpoints, ["a:1", "b:2"]);
    assert_eq!(options.connect_timeout, Duration::from_secs(90));
    let login = options.login.expect("a login");
    assert_eq!((login.user.as_str(), login.password.as_str()), ("app", "secret"));
    // The builder has read the file already, because a pipe cannot be read twice. The error still
    // names the file.
    let tls = options.tls.expect("a CA is configured");
    let error = tls.config().map(drop).expect_err("the certificate is broken").to_string();
    let name = format!("CA certificate {}", file.display());
    assert!(error.contains(&name) && !error.contains("No such file"), "{error}");
    assert!(!format!("{settings:?}").contains("secret"), "{settings:?}");
}

/// Regression: a variable was invalid, and the error named a flag that was not given.
#[test]
fn error_names_the_source_of_the_value() {
    for (name, value, why) in [
        ("ETCDCTL_ENDPOINTS", "a", "\"a\" is not HOST:PORT, such as 127.0.0.1:2379 or [::1]:2379"),
        (
            "ETCDCTL_DIAL_TIMEOUT",
            "soon",
            "invalid duration \"soon\": write 300ms, 10s, 1m30s, or a number of seconds",
        ),
        ("ETCDCTL_USER", "app", "user \"app\" has no password: give one, or NAME:PASSWORD"),
        ("ETCDCTL_PASSWORD", "secret", "a password is given without a user: give both"),
    ] {
        assert_eq!(builder_error(&settings_of(&[(name, value)])), format!("{name}: {why}"));
    }
    let mut settings = settings_of(&[("ETCDCTL_ENDPOINTS", "a")]);
    settings.set(Variable::Endpoints, "--endpoints", "b");
    assert!(builder_error(&settings).starts_with("--endpoints: \"b\""));
    settings.set(Variable::Endpoints, "--endpoints", "b:1");
    assert_eq!(settings.endpoints().expect("the flag wins"), ["b:1"]);
    assert_eq!(
        builder_error(&settings_of(&[("ETCDCTL_KEY", "k")])),
        "ETCDCTL_KEY is given without ETCDCTL_CERT"
    );
    settings.set(Variable::Cert, "--cert", "c");
    assert_eq!(builder_error(&settings), "--cert is given without --key");
    let error = settings_of(&[("ETCDCTL_CACERT", "/nowhere.pem")])
        .builder()
        .map(drop)
        .expect_err("no file");
    assert!(error.is_unreadable_file());
    let file = "ETCDCTL_CACERT /nowhere.pem: No such file or directory (os error 2)";
    assert_eq!(error.to_string(), file);
}

#[test]
fn unsupported_variable_is_refused_by_name() {
    for (name, value, flag) in [
        ("ETCDCTL_INSECURE_SKIP_TLS_VERIFY", "true", "--cacert"),
        ("ETCDCTL_DISCOVERY_SRV", "example.com", "--endpoints"),
    ] {
        let message = builder_error(&settings_of(&[(name, value)]));
        assert!(message.starts_with(&format!("{name}: not supported, ")), "{message}");
        assert!(message.contains(&format!("set to {value:?}: unset it")), "{message}");
        assert!(message.contains(flag), "{message}");
        for off in FALSE_VALUES {
            assert!(settings_of(&[(name, off)]).builder().is_ok(), "{name}={off}");
        }
    }
}

#[test]
fn endpoint_without_a_valid_port_is_refused() {
    for good in [
        "a:1",
        "http://a",
        "https://a:1/",
        "HTTP://a:1",
        "[::1]:1",
        "unix:///a/b",
        "UNIX:///a",
        "UNIX:/a",
        "unixs:///a/b",
    ] {
        assert_eq!(check_member(good), Ok(good.to_owned()));
    }
    for bad in ["a", "a:", ":1", "a:b", "a:65536", "::1", "::1:1", "[::1]", "https://a:x", "mem:"] {
        assert!(check_member(bad).is_err(), "{bad}");
    }
    assert!(endpoints(",").is_err() && endpoints("mem:,a:1").is_err());
}

#[test]
fn duration_without_a_unit_is_in_seconds() {
    assert_eq!(duration("10"), Ok(Duration::from_secs(10)));
    assert_eq!(duration("1m30s"), Ok(Duration::from_secs(90)));
    assert!(duration("soon").is_err());
}

/// With this value `etcdctl` uses TLS, and trusts the system's CAs.
#[test]
fn insecure_transport_set_to_false_requires_tls() {
    let has_tls = |value| {
        let settings = settings_of(&[("ETCDCTL_INSECURE_TRANSPORT", value)]);
        let certificates = settings.certificates().expect("no file is named").is_some();
        let options = settings.builder().expect("the value is valid").options;
        assert_eq!(certificates, options.tls.is_some(), "{value}");
        certificates
    };
    for off in ["false", "0", "F"] {
        assert!(has_tls(off), "{off}");
    }
    for on in ["", "true", "1", "T"] {
        assert!(!has_tls(on), "{on}");
    }
    let message = builder_error(&settings_of(&[("ETCDCTL_INSECURE_TRANSPORT", "no")]));
    assert_eq!(message, "ETCDCTL_INSECURE_TRANSPORT: invalid value \"no\": write true or false");
}

#[test]
fn unknown_scheme_is_refused_with_its_source() {
    let message = builder_error(&settings_of(&[("ETCDCTL_ENDPOINTS", "a:1,htps://b:1")]));
    assert!(message.starts_with("ETCDCTL_ENDPOINTS: invalid endpoint \"htps://b:1\""), "{message}");
    assert!(message.contains("unknown scheme \"htps\""), "{message}");
    for bad in ["tls://a:1", "http:/a", "unix:", "https://"] {
        assert!(check_member(bad).is_err(), "{bad}");
    }
}
