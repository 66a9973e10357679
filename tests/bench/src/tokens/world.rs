//! The world behind the fake upstreams: one company's customers, money, code and chat, made from one seed, so that what one
//! server says agrees with what another does. The expected answers are computed from it, never from what a server answered.

use crate::dice::Dice;

#[derive(Debug)]
pub struct World {
    pub people: Vec<Person>,
    pub customers: Vec<Customer>,
    pub invoices: Vec<Invoice>,
    pub payments: Vec<Payment>,
    pub repos: Vec<Repo>,
    pub channels: Vec<Channel>,
    pub tickets: Vec<Ticket>,
    pub logs: Vec<Log>,
    pub deals: Vec<Deal>,
    pub pipelines: Vec<Pipeline>,
}

#[derive(Debug)]
pub struct Person {
    pub name: String,
    pub login: String,
    pub email: String,
    pub slack: String,
    pub linear: String,
    /// A zone without summer time, and its distance from UTC in minutes.
    pub zone: (&'static str, i32),
}

#[derive(Debug)]
pub struct Customer {
    pub id: String,
    pub name: String,
    pub email: String,
}

/// Amounts are whole units of the currency.
#[derive(Debug)]
pub struct Invoice {
    pub id: String,
    pub number: String,
    pub customer: usize,
    pub date: String,
    pub due: String,
    pub total: u64,
    pub paid: u64,
    pub lines: Vec<(String, u64, u64)>,
}

#[derive(Debug)]
pub struct Payment {
    pub id: String,
    pub invoice: usize,
    pub amount: u64,
    pub date: String,
    pub reference: String,
}

#[derive(Debug)]
pub struct Repo {
    pub name: String,
    pub issues: Vec<Issue>,
    pub pulls: Vec<Pull>,
}

#[derive(Debug)]
pub struct Issue {
    pub number: u64,
    pub title: String,
    pub open: bool,
    pub label: &'static str,
    pub author: usize,
    pub assignee: usize,
    pub comments: u64,
    pub created: String,
    /// Who reported it, named in its text.
    pub customer: usize,
}

#[derive(Debug)]
pub struct Pull {
    pub number: u64,
    pub title: String,
    pub open: bool,
    pub author: usize,
    pub created: String,
    pub files: Vec<(String, u64, u64)>,
    pub approvals: Vec<(usize, bool)>,
    pub green: bool,
}

#[derive(Debug)]
pub struct Channel {
    pub id: String,
    pub name: &'static str,
    pub messages: Vec<Message>,
}

#[derive(Debug)]
pub struct Message {
    pub ts: String,
    pub author: usize,
    pub text: String,
    pub replies: Vec<(usize, String, String)>,
}

#[derive(Debug)]
pub struct Ticket {
    pub id: String,
    pub key: String,
    pub title: String,
    pub service: &'static str,
    pub priority: u64,
    pub status: &'static str,
    pub assignee: usize,
}

#[derive(Debug)]
pub struct Log {
    pub index: &'static str,
    pub service: &'static str,
    pub level: &'static str,
    pub message: String,
    pub time: String,
}

#[derive(Debug)]
pub struct Deal {
    pub id: String,
    pub customer: usize,
    pub owner: usize,
    pub stage: &'static str,
    pub amount: u64,
}

#[derive(Debug)]
pub struct Pipeline {
    pub id: u64,
    /// An index into [`SERVICES`]: each service is a project.
    pub project: usize,
    pub branch: &'static str,
    pub failed: bool,
    pub jobs: Vec<(&'static str, bool)>,
}

pub const OWNER: &str = "northwind";
pub const SERVICES: [&str; 6] = ["checkout", "billing", "search", "accounts", "shipping", "mailer"];
pub const INDICES: [&str; 3] = ["logs-2026.09", "logs-2026.10", "logs-2026.11"];
/// What a base of the sales team is called, and its table.
pub const BASE: (&str, &str) = ("appSales2026NWind", "Sales pipeline");
pub const TEAM: &str = "5f0c7a52-team-platform";
/// The day on which every task is asked.
pub const TODAY: &str = "2026-11-20";
const SEED: u64 = 20_261_120;
const FIRST: [&str; 12] = ["Ada", "Bruno", "Chen", "Dalia", "Emeka", "Freya", "Goran", "Hana", "Imran", "Julia", "Kofi", "Lena"];
const LAST: [&str; 12] =
    ["Novak", "Silva", "Wei", "Haddad", "Okafor", "Lind", "Petrov", "Sato", "Qureshi", "Costa", "Mensah", "Vogel"];
const ZONES: [(&str, i32); 5] =
    [("Asia/Tokyo", 540), ("Asia/Kolkata", 330), ("Africa/Lagos", 60), ("America/Bogota", -300), ("Asia/Dubai", 240)];
const COMPANIES: [&str; 20] = [
    "Alder Bikes",
    "Bluefin Foods",
    "Cobalt Labs",
    "Dune Travel",
    "Ember Glass",
    "Fjord Knits",
    "Garnet Tools",
    "Harbor Books",
    "Indigo Print",
    "Juniper Tea",
    "Kestrel Air",
    "Larch Homes",
    "Mosaic Tiles",
    "Nimbus Audio",
    "Opal Dental",
    "Pine Freight",
    "Quartz Watches",
    "Raven Coffee",
    "Sable Yachts",
    "Tundra Gear",
];
const GOODS: [&str; 6] = ["Platform licence", "Support hours", "Onboarding", "Data export", "Training day", "Storage"];
const TROUBLES: [&str; 10] = [
    "Timeout when saving a large cart",
    "Wrong tax on partial refunds",
    "Search ignores accents",
    "Login loop after password reset",
    "Labels printed twice",
    "Mail sent to old address",
    "Totals differ by one cent",
    "Slow list of orders",
    "Crash on empty filter",
    "Webhook retried without end",
];
const LABELS: [&str; 4] = ["bug", "feature", "docs", "security"];
const CHANNELS: [&str; 8] = ["general", "collections", "incidents", "releases", "support", "platform", "sales", "random"];
const STATES: [&str; 4] = ["Todo", "In Progress", "In Review", "Done"];
const STAGES: [&str; 4] = ["Lead", "Proposal", "Won", "Lost"];
const JOBS: [&str; 5] = ["lint", "unit", "integration", "build", "deploy"];

impl World {
    pub fn new() -> Self {
        let mut dice = Dice::new(SEED);
        let people = people(&mut dice);
        let customers: Vec<Customer> = COMPANIES.iter().map(|name| customer(&mut dice, name)).collect();
        let (invoices, payments) = money(&mut dice, customers.len());
        Self {
            repos: SERVICES.iter().map(|name| repo(&mut dice, name)).collect(),
            channels: CHANNELS.iter().map(|name| channel(&mut dice, name, &invoices)).collect(),
            tickets: (0..48).map(|n| ticket(&mut dice, n)).collect(),
            logs: (0..90).map(|n| log(&mut dice, n)).collect(),
            deals: (0..40).map(|n| deal(&mut dice, n)).collect(),
            pipelines: (0..30).map(|n| pipeline(&mut dice, n)).collect(),
            people,
            customers,
            invoices,
            payments,
        }
    }

    pub fn invoices_of(&self, customer: usize) -> impl Iterator<Item = &Invoice> {
        self.invoices.iter().filter(move |invoice| invoice.customer == customer)
    }

    pub fn channel(&self, name: &str) -> &Channel {
        self.channels.iter().find(|channel| channel.name == name).unwrap_or(&self.channels[0])
    }
}

impl Invoice {
    pub const fn open(&self) -> u64 {
        self.total - self.paid
    }
}

/// Text that looks like the ids of these services, and is the same for the same parts: a write answers with one over its
/// arguments, so that whoever knows it has sent the right ones.
pub fn mark(parts: &[&str]) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0x1f])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{:016x}", Dice::new(hash).roll())
}

/// A UUID of this roll.
fn uuid(dice: &mut Dice) -> String {
    let (a, b) = (dice.roll(), dice.roll());
    format!("{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xfff, b >> 52, b & 0xffff_ffff_ffff)
}

fn pick<T: Copy>(dice: &mut Dice, from: &[T]) -> T {
    from[dice.below(from.len())]
}

fn number(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// A day of the ten weeks before [`TODAY`], or of the four after it with `later`.
fn day(dice: &mut Dice, later: bool) -> String {
    match (later, dice.below(70)) {
        (true, n) if n < 20 => format!("2026-12-{:02}", 1 + n % 18),
        (_, n) if n < 20 => format!("2026-11-{:02}", 1 + n % 19),
        (_, n) if n < 45 => format!("2026-10-{:02}", 1 + n % 28),
        (_, n) => format!("2026-09-{:02}", 1 + n % 25),
    }
}

fn people(dice: &mut Dice) -> Vec<Person> {
    let person = |(first, last): (&&str, &&str)| {
        let login = format!("{}{}", first.to_lowercase(), &last.to_lowercase()[..1]);
        Person {
            name: format!("{first} {last}"),
            email: format!("{}.{}@northwind.example", first.to_lowercase(), last.to_lowercase()),
            slack: format!("U0{}", mark(&["slack", &login])[..9].to_uppercase()),
            linear: uuid(dice),
            zone: pick(dice, &ZONES),
            login,
        }
    };
    FIRST.iter().zip(&LAST).map(person).collect()
}

fn customer(dice: &mut Dice, name: &str) -> Customer {
    let mail = name.to_lowercase().replace(' ', "-");
    Customer { id: uuid(dice), name: name.to_owned(), email: format!("accounts@{mail}.example") }
}

/// Three to eight invoices a customer: one page of the listing. Some paid, some in parts, some not.
fn money(dice: &mut Dice, customers: usize) -> (Vec<Invoice>, Vec<Payment>) {
    let (mut invoices, mut payments) = (Vec::new(), Vec::new());
    for customer in 0..customers {
        for nth in 0..3 + dice.below(6) {
            let line =
                |dice: &mut Dice| (pick(dice, &GOODS).to_owned(), number(1 + dice.below(5)), number(20 * (1 + dice.below(40))));
            let lines: Vec<_> = (0..1 + dice.below(3)).map(|_| line(dice)).collect();
            let total: u64 = lines.iter().map(|(_, count, price)| count * price).sum();
            // The first is paid in parts and the second not at all, so that no question comes to nothing.
            let parts = match nth {
                0 => 2,
                1 => 0,
                _ => dice.below(3),
            };
            let full = nth > 1 && dice.chance(0.6);
            let (mut paid, at) = (0, invoices.len());
            for part in 0..parts {
                let left = total - paid;
                let amount = if full && part + 1 == parts { left } else { left / 3 };
                paid += amount;
                let reference = format!("BANK-{}", 10_000 + dice.below(90_000));
                payments.push(Payment { id: uuid(dice), invoice: at, amount, date: day(dice, false), reference });
            }
            invoices.push(Invoice {
                id: uuid(dice),
                number: format!("INV-{}", 1001 + at),
                customer,
                date: day(dice, false),
                due: day(dice, true),
                total,
                paid,
                lines,
            });
        }
    }
    (invoices, payments)
}

fn repo(dice: &mut Dice, name: &str) -> Repo {
    let minute = |n: usize| format!("T{:02}:{:02}:00Z", 8 + n % 10, n % 60);
    let issue = |n: usize| Issue {
        number: number(100 + 2 * n),
        title: pick(dice, &TROUBLES).to_owned(),
        open: n % 3 != 2,
        label: LABELS[n % 4],
        author: dice.below(FIRST.len()),
        assignee: dice.below(FIRST.len()),
        comments: number(dice.below(9)),
        created: day(dice, false) + &minute(n),
        customer: dice.below(COMPANIES.len()),
    };
    let issues = (0..14).map(issue).collect();
    let pull = |n: usize| {
        let file = |dice: &mut Dice, nth: usize| {
            let dir = pick(dice, &["src", "tests", "docs", "migrations"]);
            (format!("{dir}/{name}_{nth}.rs"), number(1 + dice.below(120)), number(dice.below(60)))
        };
        let author = dice.below(FIRST.len());
        let count = 1 + dice.below(5);
        Pull {
            number: number(101 + 2 * n),
            title: format!("Fix: {}", pick(dice, &TROUBLES).to_lowercase()),
            open: n < 5,
            author,
            created: day(dice, false) + &minute(n),
            files: (0..count).map(|nth| file(dice, nth)).collect(),
            approvals: (0..2).map(|nth| ((author + 1 + nth) % FIRST.len(), dice.chance(0.6))).collect(),
            green: dice.chance(0.6),
        }
    };
    let pulls = (0..9).map(pull).collect();
    Repo { name: name.to_owned(), issues, pulls }
}

fn channel(dice: &mut Dice, name: &'static str, invoices: &[Invoice]) -> Channel {
    let ts = |n: usize, dice: &mut Dice| format!("17637{:05}.{:06}", 10_000 + 300 * n, dice.below(999_999));
    let message = |n: usize| {
        let about = pick(dice, &TROUBLES).to_lowercase();
        let number = &invoices[dice.below(invoices.len())].number;
        let text = match name {
            "collections" => format!("Has anybody heard about {number}?"),
            _ => format!("Seen today: {about}"),
        };
        let own = ts(n, dice);
        let reply = |nth| (dice.below(FIRST.len()), ts(n * 3 + nth, dice), format!("Looking into it ({nth})"));
        let replies = (1..3 + n % 3).map(reply).collect();
        Message { ts: own, author: dice.below(FIRST.len()), text, replies }
    };
    let messages = (0..10).map(message).collect();
    Channel { id: format!("C0{}", mark(&["channel", name])[..9].to_uppercase()), name, messages }
}

fn ticket(dice: &mut Dice, n: usize) -> Ticket {
    let service = SERVICES[n % SERVICES.len()];
    Ticket {
        id: uuid(dice),
        key: format!("PLT-{}", 200 + n),
        title: format!("{service}: {}", pick(dice, &TROUBLES).to_lowercase()),
        service,
        priority: number(1 + n / 6 % 4),
        status: pick(dice, &STATES),
        assignee: dice.below(FIRST.len()),
    }
}

fn log(dice: &mut Dice, n: usize) -> Log {
    // Squared, so that no two services fail equally often by rule.
    let service = SERVICES[dice.below(SERVICES.len()) * dice.below(SERVICES.len()) / SERVICES.len()];
    let level = pick(dice, &["error", "error", "warn", "info"]);
    let month = n % INDICES.len();
    let time = format!("2026-{:02}-{:02}T{:02}:{:02}:00Z", 9 + month, 1 + dice.below(19), dice.below(24), dice.below(60));
    Log { index: INDICES[month], service, level, message: format!("{service}: {}", pick(dice, &TROUBLES).to_lowercase()), time }
}

fn deal(dice: &mut Dice, n: usize) -> Deal {
    let id = format!("rec{}", &mark(&["deal", &n.to_string()])[..14]);
    let amount = number(500 * (1 + dice.below(60)));
    Deal { id, customer: n % COMPANIES.len(), owner: dice.below(FIRST.len()), stage: pick(dice, &STAGES), amount }
}

fn pipeline(dice: &mut Dice, n: usize) -> Pipeline {
    // The newest of each project on main has failed, in one or two jobs.
    let newest = n >= 24;
    let bad = newest.then(|| 1 + dice.below(4));
    Pipeline {
        id: number(88_000 + 7 * n),
        project: n % SERVICES.len(),
        branch: if newest || n % 2 == 0 { "main" } else { "develop" },
        failed: newest,
        jobs: JOBS.iter().enumerate().map(|(at, job)| (*job, bad.is_some_and(|bad| at == bad || at == bad / 2))).collect(),
    }
}
