//! An order service: hosts bill the orders of four cities, each order once.
//!
//! | recipe | what for |
//! |---|---|
//! | membership | an operator follows which hosts run |
//! | shard assignment | one host at a time serves a city, so that it bills the orders one by one |
//! | message queue | the orders of a city; an order stays in the queue until its bill is stored |
//! | prefix cache | every host has the prices in memory |
//! | rate limiter | the mail provider accepts six mails per second from all hosts together |
//!
//! The example `scheduler` combines membership and the prefix cache with an election, locks and
//! transactions.
//!
//! `host-3` starts later than the others, so that they hand cities over to it. `host-2` crashes:
//! when its lease has ended, the others serve its cities, and take the orders again that it had
//! not finished. One order is of a product without a price: it becomes a dead letter, until an
//! operator sets the price.
//!
//! `cargo run --example orders` runs all of that on a store in memory, on virtual time.
#![expect(clippy::print_stdout, reason = "an example prints its results")]

use std::error::Error;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use coord_core::kv::Put;
use coord_core::recipes::{
    Delivery, MemberEvent, MemberEvents, Membership, MessageQueue, PrefixCache, PrefixSnapshot,
    RateLimiter, RateSlice, Shard, ShardAssignment,
};
use coord_core::{Client, Session};
use coord_mem::MemBackend;
use coord_testkit::Process;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// Orders as `ID QUANTITY PRODUCT`, for each city.
const ORDERS: [(&str, [&str; 4]); 4] = [
    ("oslo", ["1 2 tea", "2 1 coffee", "3 5 tea", "4 1 tea"]),
    ("paris", ["5 1 tea", "6 3 coffee", "7 1 coffee", "8 2 tea"]),
    ("rome", ["9 1 coffee", "10 4 cocoa", "11 2 coffee", "12 1 tea"]),
    ("vienna", ["13 6 tea", "14 1 coffee", "15 2 coffee", "16 3 tea"]),
];
/// How often an order is taken before it becomes a dead letter.
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::new(2).expect("it is not zero");

/// What the mail provider accepts from all hosts together, and the share of each host.
const MAILS_PER_SECOND: u32 = 6;
const MAILS_PER_SECOND_OF_HOST: u32 = 2;
/// What an idle host keeps of its share: one mail.
const BURST: Duration = Duration::from_millis(500);

/// The TTL of the sessions: a host that is silent for longer has lost its cities.
const TTL: Duration = Duration::from_secs(5);

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> Result<()> {
    let store = MemBackend::new();
    let log = Log { start: Instant::now() };
    let operator = Client::new(store.clone());
    operator.put("prices/coffee", "7").await?;
    operator.put("prices/tea", "4").await?;
    let members = hosts(&operator).members().await?;
    let mut follower = JoinSet::new(); // aborts its task when it is dropped
    follower.spawn(print_members(members.events(), log));

    let session = Session::builder(&operator).open().await?;
    for (city, orders) in ORDERS {
        orders_of(&session, city).put_all(orders).await?; // all or none
    }

    let [one, two] = ["host-1", "host-2"].map(|name| HostProcess::start(&store, name, log));
    sleep(Duration::from_millis(1_200)).await;
    let three = HostProcess::start(&store, "host-3", log);
    sleep(Duration::from_millis(1_200)).await;
    log.print("host-2", "crashes");
    two.process.crash();

    let bills = PrefixCache::open(&operator, "bills/").await?;
    let running = [one, three];
    let expected = ORDERS.iter().map(|(_, orders)| orders.len()).sum();
    while bills.read().await?.len() < expected && running.iter().all(HostProcess::is_running) {
        repair_dead_letters(&session, log).await?;
        sleep(Duration::from_secs(1)).await;
    }
    for host in running {
        host.stop.notify_one();
        host.running.await??;
    }
    session.close().await?;

    let bills = bills.read().await?;
    let amounts = bills.iter().map(|bill| String::from_utf8_lossy(&bill.value).parse::<i64>());
    println!("{} bills, total {}", bills.len(), amounts.sum::<Result<i64, _>>()?);
    Ok(())
}

/// The group of the hosts that run. The metadata of each is its name.
fn hosts(client: &Client) -> Membership<String> {
    Membership::new(client, "hosts")
}

/// The queue of a city, with the same limit of attempts for hosts and operator.
fn orders_of(session: &Session, city: &str) -> MessageQueue {
    MessageQueue::new(session, format!("orders/{city}")).max_attempts(MAX_ATTEMPTS)
}

/// The operator prints which hosts join and leave.
async fn print_members(mut events: MemberEvents<String>, log: Log) -> Result<()> {
    while let Some(event) = events.next().await {
        let event = event?;
        let what = match event {
            MemberEvent::Joined(_) => "joins",
            MemberEvent::Left(_) => "leaves",
            MemberEvent::Updated { .. } => continue,
        };
        log.print("operator", &format!("{} {what}", event.member().metadata()?));
    }
    Ok(())
}

/// The operator sets the price that was missing, and puts the orders back.
async fn repair_dead_letters(session: &Session, log: Log) -> Result<()> {
    for (city, _) in ORDERS {
        let orders = orders_of(session, city);
        for dead in orders.dead_letters(10).await? {
            session.client().put("prices/cocoa", "5").await?;
            orders.put_back(&dead).await?;
            log.print("operator", &format!("sets the price of cocoa for {city}"));
        }
    }
    Ok(())
}

/// A host as `main` sees it: a process of its own, with its own client. In a service, the process
/// is a real one, and `stop` is the signal to terminate.
struct HostProcess {
    process: Process,
    stop: Arc<Notify>,
    running: JoinHandle<Result<()>>,
}

impl HostProcess {
    fn start(store: &MemBackend, name: &'static str, log: Log) -> Self {
        let (process, stop) = (Process::new(store.clone()), Arc::new(Notify::new()));
        let host = run_host(process.client().clone(), name, Arc::clone(&stop), log);
        let running = process.spawn(host);
        Self { process, stop, running }
    }

    fn is_running(&self) -> bool {
        !self.running.is_finished()
    }
}

/// Runs a host until it is stopped. After an error, start the process again.
async fn run_host(client: Client, name: &'static str, stop: Arc<Notify>, log: Log) -> Result<()> {
    let session = Session::builder(&client).ttl(TTL).open().await?;
    let mails = RateLimiter::new(&session, "mails", MAILS_PER_SECOND).burst(BURST);
    let host = Arc::new(Host {
        name,
        prices: PrefixCache::open(&client, "prices/").await?,
        // Waits while other hosts have the whole rate, also crashed ones until their leases end.
        mails: mails.acquire_slice(MAILS_PER_SECOND_OF_HOST).await?,
        session: session.clone(),
        log,
    });
    let member = hosts(&client).join(&session, &name.to_owned()).await?;
    let cities = ORDERS.map(|(city, _)| city);
    let mut cities = ShardAssignment::new(&session, "cities", cities)?.join(name).await?;

    let mut serving = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.notified() => break,
            Some(ended) = serving.join_next() => ended??,
            // Fails if the session is lost, and with it the membership, the slice and the cities.
            city = cities.next() => {
                serving.spawn(Arc::clone(&host).serve(city?));
            }
        }
    }
    // Revokes the cities. Each task finishes the bill that it has begun.
    cities.leave().await?;
    while let Some(ended) = serving.join_next().await {
        ended??;
    }
    member.leave().await?;
    session.close().await?; // releases the slice too
    Ok(())
}

/// What the tasks of a host share.
struct Host {
    name: &'static str,
    prices: PrefixCache,
    mails: RateSlice,
    session: Session,
    log: Log,
}

impl Host {
    /// Bills the orders of a city, until the city is assigned to another host.
    async fn serve(self: Arc<Self>, city: Shard) -> Result<()> {
        let name = String::from_utf8(city.name().to_vec())?;
        self.print(&format!("serves {name}"));
        let orders = orders_of(&self.session, &name);
        loop {
            // After a revocation, the city moves when the bill that was begun is finished.
            let order = tokio::select! {
                biased;
                reason = city.lost() => return Err(reason.into()),
                () = city.revoked() => break,
                order = orders.take() => order?,
            };
            // A loss drops the work at once: another host may serve the city soon.
            city.run_while_held(self.bill(order)).await??;
        }
        self.print(&format!("hands {name} over"));
        city.release().await?;
        Ok(())
    }

    /// Sends the bill of an order, and stores it. A mail can be sent twice, if the host crashes
    /// before the acknowledgement. The bill is stored once.
    async fn bill(&self, order: Delivery) -> Result<()> {
        let attempt = order.attempts();
        // The cache has each price that was set before the order was put. It sends no request.
        let prices = self.prices.wait_for(order.put_revision()).await?;
        let bill = match Bill::new(order.payload(), &prices) {
            Ok(bill) => bill,
            Err(error) => {
                self.print(&format!("cannot bill, attempt {attempt}: {error}"));
                order.release().await?; // ready again, or a dead letter
                return Ok(());
            }
        };
        self.mails.acquire(1).await?; // waits until the host may send another mail
        self.print(&format!("mails the bill of order {}, attempt {attempt}", bill.order));
        // Both, or neither: the order leaves the queue when its bill is stored.
        let key = format!("bills/{}", bill.order);
        order.acknowledge_with([Put::new(key, bill.total.to_string())]).await?;
        Ok(())
    }

    fn print(&self, what: &str) {
        self.log.print(self.name, what);
    }
}

/// What an order costs.
struct Bill {
    order: String,
    total: i64,
}

impl Bill {
    fn new(order: &[u8], prices: &PrefixSnapshot) -> Result<Self> {
        let words: Vec<_> = str::from_utf8(order)?.split(' ').collect();
        let [id, quantity, product] = words[..] else {
            return Err("an order has an id, a quantity and a product".into());
        };
        let price: Option<i64> = prices.get_as(format!("prices/{product}"))?;
        let price = price.ok_or_else(|| format!("{product} has no price"))?;
        let total = price.checked_mul(quantity.parse()?).ok_or("the total is too large")?;
        Ok(Self { order: id.to_owned(), total })
    }
}

/// Prints lines with the time since the start.
#[derive(Clone, Copy)]
struct Log {
    start: Instant,
}

impl Log {
    fn print(self, process: &str, what: &str) {
        println!("{:4.1} s  {process:<8}  {what}", self.start.elapsed().as_secs_f64());
    }
}
