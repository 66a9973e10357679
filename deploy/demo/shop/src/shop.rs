//! The server and its state. Tools are grouped by noun in `tools/`; each group is a router, and the shop is their sum.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    handler::server::tool::{ToolCallContext, ToolRouter},
    model::{CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorCode},
    service::RequestContext,
    tool_handler,
};

use crate::{
    model::{Customer, Discount, Email, Order, OrderEvent, OrderStatus, Product},
    seed,
};

#[derive(Clone)]
pub struct Shop {
    world: Arc<Mutex<World>>,
    router: ToolRouter<Self>,
}

/// Everything the shop knows.
#[derive(Debug, Clone)]
pub struct World {
    pub customers: BTreeMap<String, Customer>,
    pub products: BTreeMap<String, Product>,
    pub orders: BTreeMap<String, Order>,
    pub histories: BTreeMap<String, Vec<OrderEvent>>,
    pub discounts: BTreeMap<String, Discount>,
    pub emails: Vec<Email>,
    /// The shop's own time: it moves a minute with every change, so that runs can be compared.
    pub time: DateTime<Utc>,
}

impl Shop {
    pub fn new() -> Self {
        Self {
            world: Arc::new(Mutex::new(seed::world())),
            router: Self::customers() + Self::orders() + Self::inventory() + Self::discounts() + Self::mail(),
        }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tool_handler(
    router = self.router,
    name = "tollgate-demo-shop",
    instructions = "The back office of a small shop. Money is in cents. Look a customer up before you touch orders."
)]
impl ServerHandler for Shop {
    /// Arguments that do not fit are answered as a result, not as a protocol error: a model reads results and can mend
    /// its call.
    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let known = self.router.get(&request.name).is_some();
        match self.router.call(ToolCallContext::new(self, request, context)).await {
            Err(error) if known && error.code == ErrorCode::INVALID_PARAMS => {
                Ok(CallToolResult::error(vec![ContentBlock::text(error.message)]).into())
            }
            other => other,
        }
    }
}

/// What is looked up everywhere, with an answer that helps when it is not there.
impl World {
    pub fn customer(&self, id: &str) -> Result<&Customer, String> {
        self.customers.get(id).ok_or_else(|| format!("there is no customer {id:?}; find_customer gives ids such as cus_0007"))
    }

    pub fn product_mut(&mut self, sku: &str) -> Result<&mut Product, String> {
        self.products.get_mut(sku).ok_or_else(|| format!("there is no product {sku:?}; list_products gives SKUs such as KIT-003"))
    }

    pub fn order(&self, id: &str) -> Result<&Order, String> {
        self.orders.get(id).ok_or_else(|| format!("there is no order {id:?}; list_orders gives ids such as ord_1042"))
    }

    pub fn order_mut(&mut self, id: &str) -> Result<&mut Order, String> {
        self.orders.get_mut(id).ok_or_else(|| format!("there is no order {id:?}; list_orders gives ids such as ord_1042"))
    }

    /// The time of the next change.
    pub fn tick(&mut self) -> DateTime<Utc> {
        self.time += TimeDelta::minutes(1);
        self.time
    }

    pub fn note(&mut self, order_id: &str, status: OrderStatus, note: String) {
        let at = self.tick();
        self.histories.entry(order_id.to_owned()).or_default().push(OrderEvent { at, status, note });
    }
}
