//! Connections to the store: flags and variables, logins, certificates, unavailable stores.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use coord_etcd_tests::{Authority, Cluster, ClusterBuilder};
use etcd_client::{Client, GetOptions, Permission, PermissionType};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::program::{AVAILABLE, Program, Server, coord};
use crate::serve::start_serve;

crate::tests![
    unreachable_store_is_named_with_an_exit_status,
    unresponsive_store_ends_the_wait_at_the_timeout,
    lock_waits_for_a_store_that_is_starting,
    login_is_read_from_flags_or_environment,
    certificates_are_read_from_flags_or_environment,
    bench_reads_the_counters_of_a_server_with_certificates,
    bench_observes_one_txn_per_proclamation,
    bench_of_a_semaphore_leaves_no_key,
    tls_to_a_plaintext_server_is_refused_with_the_remedy,
    invalid_variable_is_named_and_a_flag_replaces_it,
    store_error_names_the_operation,
    password_is_read_from_its_file,
];

async fn unreachable_store_is_named_with_an_exit_status(server: Server) {
    // No process listens on this port.
    let dead = ["--endpoints", "127.0.0.1:1"];
    for (arguments, status) in [
        (&["lock", "jobs"][..], 125),
        (&["elect", "jobs", "here"], 125),
        (&["observe", "jobs"], 1),
        (&["who", "jobs"], 1),
        (&["members", "jobs"], 1),
    ] {
        let (ended, stdout, stderr) = server.coord(&[arguments, &dead].concat()).end().await;
        assert_eq!((ended, stdout.as_str()), (Some(status), ""), "{arguments:?}");
        let expected = format!(
            "coord {}: connect to 127.0.0.1:1: the store is unavailable: cannot connect to \
            127.0.0.1:1: Connection refused (os error 111)\n",
            arguments[0]
        );
        assert_eq!(stderr, expected, "reported once, on one line");
    }
    // One available member is enough.
    let both = format!("127.0.0.1:1,{}", server[0].endpoint());
    let arguments = ["lock", "jobs", "--endpoints", &both, "--", "echo", "runs"];
    assert_eq!(server.coord(&arguments).end().await.1, "runs\n");
}

/// A server that accepts connections may send no responses, because it is stopped or no etcd.
async fn unresponsive_store_ends_the_wait_at_the_timeout(server: Server) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = silent.local_addr().expect("it is bound").to_string();
    let start = Instant::now();
    let arguments = ["lock", "jobs", "--timeout", "200ms", "--endpoints", &address];
    let late = server.coord(&arguments).end().await;
    let expected = format!("coord lock: timed out after 200ms connecting to {address} for jobs\n");
    assert_eq!(late, (Some(124), String::new(), expected));
    assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
}

async fn lock_waits_for_a_store_that_is_starting(server: Server) {
    let (earlier, address) = start_serve(&[]).await;
    drop(earlier);
    let arguments = ["lock", "jobs", "--timeout", "25s", "--endpoints", &address];
    let lock = server.coord(&[&arguments[..], &["--", "echo", "runs"]].concat());
    // Longer than the library retries by default.
    sleep(Duration::from_secs(8)).await;
    let mut later = coord();
    later.args(["serve", "--listen", &address]);
    let mut later = Program::start(later);
    later.line().await;
    assert_eq!(lock.end().await, (Some(0), "runs\n".to_owned(), String::new()));
}

/// A cluster with logins. The user `app` may read and write below `app/`.
async fn with_login(server: &Server) -> Cluster {
    let cluster = ClusterBuilder::new(server.release.clone()).start().await;
    let client = Client::connect(cluster.endpoints(), None).await.expect(AVAILABLE);
    let mut auth = client.auth_client();
    for user in ["app", "root"] {
        auth.user_add(user, "secret", None).await.expect(AVAILABLE);
        auth.role_add(user).await.expect(AVAILABLE);
        auth.user_grant_role(user, user).await.expect(AVAILABLE);
    }
    let own = Permission::new(PermissionType::Readwrite, "app/").with_prefix();
    auth.role_grant_permission("app", own).await.expect(AVAILABLE);
    auth.auth_enable().await.expect(AVAILABLE);
    cluster
}

async fn login_is_read_from_flags_or_environment(server: Server) {
    let cluster = with_login(&server).await;
    let run = async |flags: &[&str], environment: &[(&str, &str)]| {
        let mut command = coord();
        command.args(["lock", "app/jobs", "--endpoints", cluster[0].endpoint()]).args(flags);
        command.envs(environment.iter().copied()).args(["--", "echo", "runs"]);
        Program::start(command).end().await
    };
    let runs = (Some(0), "runs\n".to_owned(), String::new());
    assert_eq!(run(&["--user", "app:secret"], &[]).await, runs);
    assert_eq!(run(&["--user", "app", "--password", "secret"], &[]).await, runs);
    assert_eq!(run(&[], &[("ETCDCTL_USER", "app:secret")]).await, runs);
    let apart = [("ETCDCTL_USER", "app"), ("ETCDCTL_PASSWORD", "secret")];
    assert_eq!(run(&[], &apart).await, runs);

    let wrong = [("ETCDCTL_USER", "app:wrong")];
    assert_eq!(run(&["--user", "app:secret"], &wrong).await, runs, "the flag wins");
    let (status, _, stderr) = run(&[], &wrong).await;
    assert_eq!(status, Some(125), "{stderr}");
    assert!(!stderr.contains("wrong"), "a password is not printed: {stderr}");
    let (status, _, stderr) = run(&["--user", "app"], &[]).await;
    assert_eq!(status, Some(2), "the command line is wrong: {stderr}");
    assert!(stderr.contains("has no password"), "{stderr}");
    let (status, _, stderr) = run(&[], &[("ETCDCTL_USER", "")]).await;
    assert_eq!(status, Some(125), "a client without a login is refused: {stderr}");
}

/// A cluster that requires client certificates. Writes the accepted ones to a directory.
async fn with_certificates(server: &Server, folder: &Path) -> Cluster {
    let authority = Authority::new();
    let (certificate, key) = &authority.client;
    for (name, text) in [("ca", &authority.certificate), ("cert", certificate), ("key", key)] {
        fs::write(folder.join(name), text).expect("a file can be written");
    }
    ClusterBuilder::new(server.release.clone()).authority(&authority).start().await
}

async fn certificates_are_read_from_flags_or_environment(server: Server) {
    let folder = tempfile::tempdir().expect("a directory can be created");
    let cluster = with_certificates(&server, folder.path()).await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (ca, cert, key) = (file("ca"), file("cert"), file("key"));
    let address = cluster[0].endpoint().trim_start_matches("https://");
    let run = async |flags: &[&str], environment: &[(&str, &str)]| {
        let mut command = coord();
        command.args(["lock", "jobs", "--endpoints", address]).args(flags);
        command.envs(environment.iter().copied()).args(["--", "echo", "runs"]);
        Program::start(command).end().await
    };
    let runs = (Some(0), "runs\n".to_owned(), String::new());
    let all = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    assert_eq!(run(&all, &[]).await, runs);
    let all = [("ETCDCTL_CACERT", &*ca), ("ETCDCTL_CERT", &*cert), ("ETCDCTL_KEY", &*key)];
    assert_eq!(run(&[], &all).await, runs);
    for too_little in [&["--cacert", &ca][..], &["--cert", &cert, "--key", &key], &[]] {
        let (status, stdout, stderr) = run(too_little, &[]).await;
        assert_eq!((status, stdout.as_str()), (Some(125), ""), "{too_little:?}: {stderr}");
    }
    let (status, _, stderr) = run(&["--cacert", &ca, "--cert", &cert], &[]).await;
    assert_eq!((status, &*stderr), (Some(2), "coord lock: --cert is given without --key\n"));
}

async fn bench_reads_the_counters_of_a_server_with_certificates(server: Server) {
    let folder = tempfile::tempdir().expect("a directory can be created");
    let cluster = with_certificates(&server, folder.path()).await;
    let mut command = coord();
    for name in ["ca", "cert", "key"] {
        let flag = if name == "ca" { "--cacert".to_owned() } else { format!("--{name}") };
        command.arg(flag).arg(folder.path().join(name));
    }
    let mut bench = coord();
    bench.args(["bench", "raw-put", "--count", "40", "--warmup", "0s"]);
    bench.args(command.as_std().get_args()).args(["--endpoint", cluster[0].endpoint()]);
    let (status, stdout, stderr) = Program::start(bench).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!(report["server"]["unary_rpcs"]["Put"], 1.0, "{report}");
}

async fn bench_observes_one_txn_per_proclamation(server: Server) {
    let arguments = ["bench", "election-observe", "--count", "20", "--warmup", "0s"];
    let (status, stdout, stderr) = server.coord(&arguments).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&stdout).expect("it is JSON");
    assert_eq!(
        report["server"]["unary_rpcs"]["Txn"], 1.0,
        "one transaction for each proclamation: {report}"
    );
    let latency = |series: &str| report["latency_us"][series]["p50"].as_f64().expect("a time");
    assert!(latency("observed") >= latency("proclaim"), "{report}");
}

/// Regression: the key of the limit, which has another prefix, stayed.
async fn bench_of_a_semaphore_leaves_no_key(server: Server) {
    let arguments = ["bench", "semaphore", "--count", "5", "--warmup", "0s"];
    let (status, _, stderr) = server.coord(&arguments).end().await;
    assert_eq!((status, stderr.as_str()), (Some(0), ""));
    let mut store = Client::connect([server[0].endpoint()], None).await.expect(AVAILABLE);
    let all = GetOptions::new().with_prefix();
    for prefix in ["coordbench/semaphore/", "coord/limit/coordbench/semaphore/"] {
        let left = store.get(prefix, Some(all.clone())).await.expect(AVAILABLE);
        assert_eq!(left.count(), 0, "{left:?}");
    }
}

/// Regression: the message was "corrupt message of type InvalidContentType" or "tls handshake eof".
/// The two servers cause two messages, which differ in their punctuation.
async fn tls_to_a_plaintext_server_is_refused_with_the_remedy(server: Server) {
    let (_serve, address) = crate::serve::start_serve(&[]).await;
    for plain in [address.as_str(), server[0].endpoint().trim_start_matches("http://")] {
        let arguments = ["who", "jobs", "--endpoints", &format!("https://{plain}")];
        let (status, _, stderr) = server.coord(&arguments).end().await;
        assert_eq!(status, Some(1), "{stderr}");
        let remedy = "not use TLS, write http:// in place of https://";
        let message = stderr.replace("TLS: write", "TLS, write");
        assert!(message.contains(plain) && message.contains(remedy), "{stderr}");
    }
}

/// Regression: the message named a flag that was not given, and no flag replaced the variable.
async fn invalid_variable_is_named_and_a_flag_replaces_it(server: Server) {
    let endpoint = server[0].endpoint();
    for (name, value, flags) in [
        ("ETCDCTL_ENDPOINTS", "a:b", &["--endpoints", endpoint][..]),
        ("ETCDCTL_DIAL_TIMEOUT", "soon", &["--connect-timeout", "2s"]),
        ("ETCDCTL_USER", "app", &["--user", "app:secret"]),
        ("ETCDCTL_KEY", "key.pem", &["--key", ""]),
    ] {
        let who = |flags: &[&str]| {
            server
                .coord_with(|command| command.args(["who", "jobs"]).args(flags).env(name, value))
                .end()
        };
        let (status, _, stderr) = who(&[]).await;
        assert_eq!(status, Some(2), "{stderr}");
        assert!(stderr.starts_with(&format!("coord who: {name}")), "{stderr}");
        assert!(!stderr.contains("--"), "no flag was given: {stderr}");
        assert_eq!(who(flags).await.0, Some(4), "{flags:?} replaces {name}");
    }
}

async fn store_error_names_the_operation(server: Server) {
    let cluster = with_login(&server).await;
    let refused = async |arguments: &[&str]| {
        let login = ["--user", "app:secret", "--endpoints", cluster[0].endpoint()];
        server.coord(&[arguments, &login].concat()).end().await.2
    };
    for (arguments, operation) in [
        (&["lock", "other"][..], "coord lock: enqueue for other: permission denied"),
        (&["lock", "other", "--try"], "coord lock: acquire other: permission denied"),
        (&["who", "other"], "coord who: read the queue of other: permission denied"),
        (&["members", "other"], "coord members: read the members of other: permission denied"),
        (&["observe", "other"], "coord observe: read the leader of other: permission denied"),
    ] {
        let stderr = refused(arguments).await;
        assert!(stderr.starts_with(operation), "{stderr}");
    }
}

async fn password_is_read_from_its_file(server: Server) {
    let cluster = with_login(&server).await;
    let folder = tempfile::tempdir().expect("a directory can be created");
    let file = folder.path().join("password");
    let path = file.to_str().expect("UTF-8");
    let run = async |flags: &[&str]| {
        let mut command = coord();
        command.args(["lock", "app/jobs", "--endpoints", cluster[0].endpoint()]).args(flags);
        // The file takes precedence.
        command.env("ETCDCTL_PASSWORD", "wrong").args(["--", "echo", "runs"]);
        Program::start(command).end().await
    };
    let flags = ["--user", "app", "--password-file", path];
    for text in ["secret", "secret\n", "secret\r\nand a comment\n"] {
        fs::write(&file, text).expect("the file can be written");
        assert_eq!(run(&flags).await, (Some(0), "runs\n".to_owned(), String::new()), "{text:?}");
    }
    fs::write(&file, "\n").expect("the file can be written");
    let (status, _, stderr) = run(&flags).await;
    let expected = format!(
        "coord lock: --password-file {path}: the first line is empty: write the \
        password there\n"
    );
    assert_eq!((status, stderr), (Some(2), expected));
    fs::remove_file(&file).expect("the file can be removed");
    let (status, _, stderr) = run(&flags).await;
    assert!(status == Some(125) && stderr.contains("No such file"), "{stderr}");
    let (status, _, _) = run(&["--user", "app", "--password", "x", "--password-file", path]).await;
    assert_eq!(status, Some(2), "one of the two");
}
