//! A commit that was sent and never answered: the batch is in the log once, whatever comes before that is known.

#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod support;

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
};
use tollgate_evidence::merkle;
use tollgate_store::{Store, audit::AuditWriter, log, sealer, seals};

use support::{QUEUE, Who, count, opens, tenant};

/// The end of a statement that is its own transaction, as the client library sends it: run it all, and that was it.
const EXECUTE: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
const SYNC: &[u8] = b"S\0\0\0\x04";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Passes,
    /// The next commit reaches the server, its answer reaches nobody, and then it is [`Self::Away`].
    Cuts(usize),
    /// Connections are cut: the next one, and so many more.
    Away(usize),
}

/// Stands between a writer and its Postgres.
#[derive(Clone)]
struct Wire(Arc<Mutex<Mood>>);

impl Wire {
    fn mood(&self) -> std::sync::MutexGuard<'_, Mood> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, mood: Mood) {
        *self.mood() = mood;
    }

    /// A pool behind the wire. Tests reach their Postgres over its socket.
    async fn pool(&self, options: &PgConnectOptions) -> PgPool {
        let folder = options.get_socket().cloned().unwrap_or_else(|| PathBuf::from(options.get_host()));
        let socket = folder.join(format!(".s.PGSQL.{}", options.get_port()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = self.clone();
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (wire, socket) = (wire.clone(), socket.clone());
                tokio::spawn(async move { wire.carry(client, UnixStream::connect(socket).await.unwrap()).await });
            }
        });
        let behind = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(options.get_username())
            .database(options.get_database().unwrap())
            .ssl_mode(sqlx::postgres::PgSslMode::Disable);
        PgPoolOptions::new().max_connections(4).connect_with(behind).await.unwrap()
    }

    async fn carry(&self, mut client: TcpStream, mut server: UnixStream) {
        {
            let mut mood = self.mood();
            if let Mood::Away(more) = *mood {
                *mood = if more == 0 { Mood::Passes } else { Mood::Away(more - 1) };
                return;
            }
        }
        let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        loop {
            tokio::select! {
                sent = client.read(&mut up) => {
                    let Some(bytes) = some(&up, sent) else { return };
                    let cuts = match *self.mood() {
                        Mood::Cuts(more) if is_commit(bytes) => Some(more),
                        // As if the server had gone: what was connected is connected no more.
                        Mood::Away(_) => return,
                        Mood::Cuts(_) | Mood::Passes => None,
                    };
                    if let Some(more) = cuts {
                        self.set(Mood::Away(more));
                    }
                    pass(&mut server, bytes).await;
                    if cuts.is_some() {
                        // The answer: the commit is done.
                        assert!(server.read(&mut down).await.unwrap() > 0);
                        return;
                    }
                }
                answered = server.read(&mut down) => {
                    let Some(bytes) = some(&down, answered) else { return };
                    pass(&mut client, bytes).await;
                }
            }
        }
    }
}

/// A batch of this size comes in several pieces; the last one has the end of it.
fn is_commit(bytes: &[u8]) -> bool {
    bytes.ends_with(SYNC) && bytes.windows(EXECUTE.len()).any(|window| window == EXECUTE)
}

fn some(buffer: &[u8], read: std::io::Result<usize>) -> Option<&[u8]> {
    read.ok().filter(|n| *n > 0).map(|n| &buffer[..n])
}

/// Whoever has gone reads nothing.
async fn pass(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    drop(to.write_all(bytes).await);
}

/// Every row of the log stands in it once, as it was signed, and the sealer has nothing to say.
async fn sealed_once(store: &Store, who: &Who, rows: usize) {
    let mut anomalies = Vec::new();
    while count(store.pool(), "SELECT count(*) FROM audit_batches").await > 0 {
        anomalies.extend(sealer::round(store, support::now()).await.unwrap().anomalies);
    }
    assert_eq!(anomalies, Vec::<String>::new());
    let mut tx = store.tenant(who.tenant).await.unwrap();
    let mut places = Vec::new();
    for signed in seals::from(&mut tx, who.tenant, 1, 10_000).await.unwrap() {
        let entries = seals::entries(&mut tx, who.tenant, signed.seal.sequence).await.unwrap().unwrap();
        let lines = log::lines(&mut tx, who.tenant, &entries).await.unwrap();
        for ((place, leaf), line) in entries.into_iter().zip(lines) {
            assert_eq!(line.map(|line| merkle::leaf(&line)), Some(leaf), "{place:?} is what was signed");
            places.push((place.kind, place.id));
        }
    }
    assert_eq!(places.len(), rows);
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), rows, "a row stands in the log twice");
}

async fn many(audit: &AuditWriter, who: &Who) -> usize {
    let intents: Vec<_> = (0..40).map(|n| who.intent(format!("{{\"n\":{n}}}"))).collect();
    let opened = join_all(intents.iter().map(|intent| audit.before(opens(intent.clone())))).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    intents.len()
}

/// The server answers again after one refused connection, after two, or after more of them than a batch is tried as a whole.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn a_commit_without_an_answer_is_repeated_until_it_has_one(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "judge", 4).await;
    for away in [0, 1, 12] {
        let wire = Wire(Arc::new(Mutex::new(Mood::Passes)));
        let victim = Store::from_pool(wire.pool(&options).await);
        let who = Who::new(tenant(&pool).await);
        let audit = AuditWriter::start(&victim, QUEUE);
        let mut rows = many(&audit, &who).await;
        wire.set(Mood::Cuts(away));
        rows += many(&audit, &who).await;
        assert_eq!(*wire.mood(), Mood::Passes, "a commit was cut, and connections after it");
        rows += many(&audit, &who).await;
        sealed_once(&Store::from_pool(pool.clone()), &who, rows).await;
    }
}

/// Whoever waited for the batch has gone when the server is back; what may have been committed is not left out of the repetition.
#[sqlx::test(migrator = "tollgate_store::MIGRATOR")]
async fn an_entry_that_nobody_waits_for_stays_in_a_batch_in_doubt(_: PgPoolOptions, options: PgConnectOptions) {
    let pool = support::pool(&options, "judge", 4).await;
    let wire = Wire(Arc::new(Mutex::new(Mood::Passes)));
    let victim = Store::from_pool(wire.pool(&options).await);
    let who = Who::new(tenant(&pool).await);
    let audit = AuditWriter::start(&victim, QUEUE);
    many(&audit, &who).await;
    wire.set(Mood::Cuts(usize::MAX));
    let intents: Vec<_> = (0..8).map(|n| who.intent(format!("{{\"gone\":{n}}}"))).collect();
    let waiting = join_all(intents.iter().map(|intent| audit.before(opens(intent.clone()))));
    assert!(tokio::time::timeout(Duration::from_millis(400), waiting).await.is_err(), "they wait");
    wire.set(Mood::Passes);
    // Both writers go on, the one in doubt and the other.
    for _ in 0..20 {
        let intents: Vec<_> = (0..8).map(|_| who.intent("{}")).collect();
        let written = join_all(intents.iter().map(|intent| audit.before(opens(intent.clone())))).await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    sealed_once(&Store::from_pool(pool.clone()), &who, 40 + 8 + 160).await;
}
