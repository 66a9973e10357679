use rmcp::{Json, handler::server::wrapper::Parameters, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limit, page};
use crate::{
    model::{Cents, Customer, OrderStatus, Tier},
    shop::Shop,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FindCustomer {
    /// The whole address, upper or lower case.
    email: Option<String>,
    /// A part of the name, upper or lower case.
    name: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CustomerId {
    /// Like `cus_0007`.
    customer_id: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListCustomers {
    tier: Option<Tier>,
    /// ISO 3166 code of two letters.
    country: Option<String>,
    #[serde(default)]
    limit: Limit,
    #[serde(default)]
    offset: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UpdateCustomer {
    /// Like `cus_0007`.
    customer_id: String,
    name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    tier: Option<Tier>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Customers {
    customers: Vec<Customer>,
    /// How many match, shown here or not.
    total: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct CustomerCard {
    #[serde(flatten)]
    customer: Customer,
    orders: usize,
    /// Sum of all orders that were not cancelled, less refunds.
    spent_cents: Cents,
}

#[tool_router(router = customers, vis = "pub(crate)")]
impl Shop {
    /// Finds customers by e-mail address or by a part of their name. Give at least one of the two.
    #[tool(annotations(title = "Find a customer", read_only_hint = true, open_world_hint = false))]
    fn find_customer(&self, Parameters(ask): Parameters<FindCustomer>) -> Result<Json<Customers>, String> {
        if ask.email.is_none() && ask.name.is_none() {
            return Err("give an email or a name to look for".to_owned());
        }
        let name = ask.name.map(|name| name.to_lowercase());
        let matches = |customer: &&Customer| {
            ask.email.as_ref().is_none_or(|email| customer.email.eq_ignore_ascii_case(email))
                && name.as_ref().is_none_or(|name| customer.name.to_lowercase().contains(name))
        };
        let customers: Vec<Customer> = self.world().customers.values().filter(matches).cloned().collect();
        let total = customers.len();
        Ok(Json(Customers { customers, total }))
    }

    /// One customer with the number of orders and the sum spent.
    #[tool(annotations(title = "Get a customer", read_only_hint = true, open_world_hint = false))]
    fn get_customer(&self, Parameters(ask): Parameters<CustomerId>) -> Result<Json<CustomerCard>, String> {
        let world = self.world();
        let customer = world.customer(&ask.customer_id)?.clone();
        let theirs = || world.orders.values().filter(|order| order.customer_id == customer.id);
        let spent_cents = theirs()
            .filter(|order| order.status != OrderStatus::Cancelled)
            .map(|order| order.total_cents - order.refunded_cents)
            .sum();
        let orders = theirs().count();
        Ok(Json(CustomerCard { customer, orders, spent_cents }))
    }

    /// Customers in the order of their ids, optionally of one tier or country.
    #[tool(annotations(title = "List customers", read_only_hint = true, open_world_hint = false))]
    fn list_customers(&self, Parameters(ask): Parameters<ListCustomers>) -> Result<Json<Customers>, String> {
        let matches = |customer: &&Customer| {
            ask.tier.is_none_or(|tier| customer.tier == tier)
                && ask.country.as_ref().is_none_or(|country| customer.country.eq_ignore_ascii_case(country))
        };
        let all = self.world().customers.values().filter(matches).cloned().collect();
        let (customers, total) = page(all, ask.limit, ask.offset)?;
        Ok(Json(Customers { customers, total }))
    }

    /// Changes the given fields of a customer and leaves the others as they are.
    #[tool(annotations(
        title = "Update a customer",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = true,
        open_world_hint = false
    ))]
    fn update_customer(&self, Parameters(ask): Parameters<UpdateCustomer>) -> Result<Json<Customer>, String> {
        let mut world = self.world();
        let mut customer = world.customer(&ask.customer_id)?.clone();
        if let Some(email) = ask.email {
            if !email.contains('@') {
                return Err(format!("{email:?} is not an e-mail address"));
            }
            let taken = |other: &Customer| other.id != customer.id && other.email.eq_ignore_ascii_case(&email);
            if world.customers.values().any(taken) {
                return Err(format!("another customer already has the address {email:?}"));
            }
            customer.email = email;
        }
        if let Some(name) = ask.name {
            customer.name = name;
        }
        if let Some(tier) = ask.tier {
            customer.tier = tier;
        }
        customer.phone = ask.phone.or(customer.phone);
        world.customers.insert(customer.id.clone(), customer.clone());
        Ok(Json(customer))
    }
}
