//! What the rows take on disk.

use anyhow::Result;
use sqlx::{PgConnection, Row};

use crate::table::{Table, count, line, mib};

/// Every partitioned table of the trail with its partitions, and every index of theirs under the name of its parent.
const SIZES: &str = "
    SELECT parent.relname::text AS name, parent.relkind = 'I' AS is_index,
           sum(pg_relation_size(part.relid) + CASE WHEN parent.relkind = 'p'
               THEN COALESCE(pg_total_relation_size(NULLIF(c.reltoastrelid, 0)), 0) ELSE 0 END)::bigint AS bytes,
           sum(GREATEST(c.reltuples, 0))::bigint AS rows
    FROM pg_class parent
    CROSS JOIN LATERAL pg_partition_tree(parent.oid) part
    JOIN pg_class c ON c.oid = part.relid
    WHERE parent.relkind IN ('p', 'I') AND NOT parent.relispartition AND part.isleaf
    GROUP BY parent.oid, parent.relname, parent.relkind
    HAVING sum(GREATEST(c.reltuples, 0)) > 0
    ORDER BY bytes DESC";

pub async fn print(connection: &mut PgConnection) -> Result<()> {
    line("Tables (with what is stored out of line) and their indexes, all partitions together.\n");
    let mut table = Table::new(&["relation", "rows", "MiB", "bytes per row"]);
    for row in sqlx::query(SIZES).fetch_all(&mut *connection).await? {
        let (bytes, rows): (i64, i64) = (row.try_get("bytes")?, row.try_get("rows")?);
        let name: String = row.try_get("name")?;
        let kind = if row.try_get("is_index")? { "index" } else { "table" };
        table.row(vec![format!("{kind} {name}"), count(rows), mib(bytes), count(bytes / rows.max(1))]);
    }
    let all: i64 = sqlx::query_scalar("SELECT pg_database_size(current_database())").fetch_one(&mut *connection).await?;
    table.row(vec!["the database".to_owned(), String::new(), mib(all), String::new()]);
    table.print();
    Ok(())
}
