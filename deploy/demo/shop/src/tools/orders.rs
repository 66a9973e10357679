use std::collections::BTreeMap;

use rmcp::{Json, handler::server::wrapper::Parameters, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limit, page};
use crate::{
    model::{Cents, Order, OrderEvent, OrderLine, OrderStatus},
    shop::{Shop, World},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListOrders {
    /// Only orders of this customer, like `cus_0007`.
    customer_id: Option<String>,
    status: Option<OrderStatus>,
    #[serde(default)]
    limit: Limit,
    #[serde(default)]
    offset: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderId {
    /// Like `ord_1042`.
    order_id: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLine {
    /// Like `KIT-003`.
    sku: String,
    #[schemars(range(min = 1, max = 100))]
    quantity: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateOrder {
    /// Like `cus_0007`.
    customer_id: String,
    #[schemars(length(min = 1, max = 20))]
    lines: Vec<NewLine>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CancelOrder {
    /// Like `ord_1042`.
    order_id: String,
    /// Kept in the order's history.
    #[serde(default = "no_reason")]
    reason: String,
}

fn no_reason() -> String {
    "no reason given".to_owned()
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum RefundReason {
    Damaged,
    Late,
    WrongItem,
    Goodwill,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RefundOrder {
    /// Like `ord_1042`.
    order_id: String,
    /// Everything that is left where not given.
    #[schemars(range(min = 1))]
    amount_cents: Option<Cents>,
    reason: RefundReason,
}

#[derive(Debug, Default, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum StatsBy {
    #[default]
    Status,
    Customer,
    Month,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrderStats {
    #[serde(default)]
    by: StatsBy,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Orders {
    orders: Vec<Order>,
    /// How many match, shown here or not.
    total: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct History {
    order_id: String,
    events: Vec<OrderEvent>,
}

#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct Stat {
    /// The status, the customer's id, or the month like `2026-03`.
    group: String,
    orders: usize,
    total_cents: Cents,
    refunded_cents: Cents,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Stats {
    stats: Vec<Stat>,
}

#[tool_router(router = orders, vis = "pub(crate)")]
impl Shop {
    /// Orders, newest first, optionally of one customer or in one status.
    #[tool(annotations(title = "List orders", read_only_hint = true, open_world_hint = false))]
    fn list_orders(&self, Parameters(ask): Parameters<ListOrders>) -> Result<Json<Orders>, String> {
        let world = self.world();
        if let Some(id) = &ask.customer_id {
            world.customer(id)?;
        }
        let matches = |order: &&Order| {
            ask.customer_id.as_ref().is_none_or(|id| order.customer_id == *id)
                && ask.status.is_none_or(|status| order.status == status)
        };
        let all = world.orders.values().rev().filter(matches).cloned().collect();
        let (orders, total) = page(all, ask.limit, ask.offset)?;
        Ok(Json(Orders { orders, total }))
    }

    /// One order with its lines and amounts.
    #[tool(annotations(title = "Get an order", read_only_hint = true, open_world_hint = false))]
    fn get_order(&self, Parameters(ask): Parameters<OrderId>) -> Result<Json<Order>, String> {
        Ok(Json(self.world().order(&ask.order_id)?.clone()))
    }

    /// Creates a pending order at today's prices and reserves its stock. Fails, and reserves nothing, where one line
    /// cannot be served.
    #[tool(annotations(
        title = "Create an order",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn create_order(&self, Parameters(ask): Parameters<CreateOrder>) -> Result<Json<Order>, String> {
        let mut world = self.world();
        world.customer(&ask.customer_id)?;
        let lines = reserve(&mut world, &ask.lines)?;
        let subtotal = lines.iter().map(|line| line.unit_price_cents * i64::from(line.quantity)).sum();
        let order = Order {
            id: format!("ord_{}", 1001 + world.orders.len()),
            customer_id: ask.customer_id,
            status: OrderStatus::Pending,
            lines,
            subtotal_cents: subtotal,
            discount_code: None,
            discount_cents: 0,
            total_cents: subtotal,
            refunded_cents: 0,
            created_at: world.time,
        };
        world.note(&order.id, order.status, "order pending".to_owned());
        world.orders.insert(order.id.clone(), order.clone());
        Ok(Json(order))
    }

    /// Cancels an order that has not been shipped and gives its stock back. What was shipped is refunded instead.
    #[tool(annotations(
        title = "Cancel an order",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn cancel_order(&self, Parameters(ask): Parameters<CancelOrder>) -> Result<Json<Order>, String> {
        let mut world = self.world();
        let order = world.order_mut(&ask.order_id)?;
        if !matches!(order.status, OrderStatus::Pending | OrderStatus::Paid) {
            return Err(format!("{} is {}; only pending or paid orders can be cancelled", order.id, order.status.name()));
        }
        order.status = OrderStatus::Cancelled;
        let order = order.clone();
        for line in &order.lines {
            let product = world.product_mut(&line.sku)?;
            product.reserved = product.reserved.saturating_sub(line.quantity);
        }
        world.note(&order.id, order.status, format!("cancelled: {}", ask.reason));
        Ok(Json(order))
    }

    /// Pays back an order in part or in whole. It is `refunded` once everything is paid back.
    #[tool(annotations(
        title = "Refund an order",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn refund_order(&self, Parameters(ask): Parameters<RefundOrder>) -> Result<Json<Order>, String> {
        let mut world = self.world();
        let order = world.order_mut(&ask.order_id)?;
        if !matches!(order.status, OrderStatus::Paid | OrderStatus::Shipped | OrderStatus::Delivered) {
            return Err(format!(
                "{} is {}; only paid, shipped or delivered orders can be refunded",
                order.id,
                order.status.name()
            ));
        }
        let left = order.total_cents - order.refunded_cents;
        let amount = ask.amount_cents.unwrap_or(left);
        if amount < 1 || amount > left {
            return Err(format!("amount_cents must be between 1 and {left}, what is left of {}", order.id));
        }
        order.refunded_cents += amount;
        if order.refunded_cents == order.total_cents {
            order.status = OrderStatus::Refunded;
        }
        let order = order.clone();
        world.note(&order.id, order.status, format!("{amount} cents refunded: {:?}", ask.reason).to_lowercase());
        Ok(Json(order))
    }

    /// What happened to an order, oldest first.
    #[tool(annotations(title = "Order history", read_only_hint = true, open_world_hint = false))]
    fn order_history(&self, Parameters(ask): Parameters<OrderId>) -> Result<Json<History>, String> {
        let world = self.world();
        let order_id = world.order(&ask.order_id)?.id.clone();
        let events = world.histories.get(&order_id).cloned().unwrap_or_default();
        Ok(Json(History { order_id, events }))
    }

    /// Number and sum of orders by status, customer or month.
    #[tool(annotations(title = "Order statistics", read_only_hint = true, open_world_hint = false))]
    fn order_stats(&self, Parameters(ask): Parameters<OrderStats>) -> Json<Stats> {
        let mut groups: BTreeMap<String, Stat> = BTreeMap::new();
        for order in self.world().orders.values() {
            let group = match ask.by {
                StatsBy::Status => order.status.name().to_owned(),
                StatsBy::Customer => order.customer_id.clone(),
                StatsBy::Month => order.created_at.format("%Y-%m").to_string(),
            };
            let stat = groups.entry(group.clone()).or_insert_with(|| Stat { group, ..Stat::default() });
            stat.orders += 1;
            stat.total_cents += order.total_cents;
            stat.refunded_cents += order.refunded_cents;
        }
        Json(Stats { stats: groups.into_values().collect() })
    }
}

/// All lines or none: looks first, then reserves. The same SKU in two lines counts together.
fn reserve(world: &mut World, lines: &[NewLine]) -> Result<Vec<OrderLine>, String> {
    if lines.is_empty() {
        return Err("an order needs at least one line".to_owned());
    }
    let mut wanted: BTreeMap<&str, u32> = BTreeMap::new();
    for line in lines {
        if !(1..=100).contains(&line.quantity) {
            return Err(format!("quantity of {} must be between 1 and 100, not {}", line.sku, line.quantity));
        }
        *wanted.entry(&line.sku).or_default() += line.quantity;
    }
    for (sku, quantity) in &wanted {
        let product = world.product_mut(sku)?;
        if product.available() < *quantity {
            return Err(format!(
                "only {} of {sku} ({}) are available, {quantity} were asked for",
                product.available(),
                product.name
            ));
        }
    }
    let mut reserved = Vec::new();
    for line in lines {
        let product = world.product_mut(&line.sku)?;
        product.reserved += line.quantity;
        reserved.push(OrderLine {
            sku: product.sku.clone(),
            name: product.name.clone(),
            quantity: line.quantity,
            unit_price_cents: product.price_cents,
        });
    }
    Ok(reserved)
}
