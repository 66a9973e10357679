use rmcp::{Json, handler::server::wrapper::Parameters, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Cents, Discount, DiscountKind, Order, OrderStatus},
    shop::{Shop, World},
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListDiscounts {
    /// Leave out codes that were used up.
    #[serde(default = "yes")]
    usable_only: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Like `WELCOME10`.
    code: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateDiscount {
    /// 3 to 20 upper-case letters and digits.
    #[schemars(regex(pattern = r"^[A-Z0-9]{3,20}$"))]
    code: String,
    #[serde(default = "percent")]
    kind: DiscountKind,
    /// Percent points (1 to 100), or cents where the kind is `fixed`.
    value: u32,
    /// The subtotal from which it may be used.
    #[serde(default)]
    minimum_cents: Cents,
    #[serde(default = "hundred")]
    max_uses: u32,
}

fn percent() -> DiscountKind {
    DiscountKind::Percent
}

fn hundred() -> u32 {
    100
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ApplyDiscount {
    /// Like `ord_1042`; it must be pending.
    order_id: String,
    /// Like `WELCOME10`. It replaces a discount the order already has.
    code: String,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Discounts {
    discounts: Vec<Discount>,
}

#[tool_router(router = discounts, vis = "pub(crate)")]
impl Shop {
    /// Discount codes and how often they were used.
    #[tool(annotations(title = "List discounts", read_only_hint = true, open_world_hint = false))]
    fn list_discounts(&self, Parameters(ask): Parameters<ListDiscounts>) -> Json<Discounts> {
        let usable = |discount: &&Discount| !ask.usable_only || discount.uses < discount.max_uses;
        Json(Discounts { discounts: self.world().discounts.values().filter(usable).cloned().collect() })
    }

    /// One discount by its code.
    #[tool(annotations(title = "Get a discount", read_only_hint = true, open_world_hint = false))]
    fn get_discount(&self, Parameters(ask): Parameters<Code>) -> Result<Json<Discount>, String> {
        discount(&self.world(), &ask.code).map(Json)
    }

    /// Creates a discount code.
    #[tool(annotations(
        title = "Create a discount",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn create_discount(&self, Parameters(ask): Parameters<CreateDiscount>) -> Result<Json<Discount>, String> {
        let letters = ask.code.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        if !letters || !(3..=20).contains(&ask.code.len()) {
            return Err(format!("code {:?} must be 3 to 20 upper-case letters and digits", ask.code));
        }
        if ask.kind == DiscountKind::Percent && !(1..=100).contains(&ask.value) {
            return Err(format!("value must be between 1 and 100 percent, not {}", ask.value));
        }
        let mut world = self.world();
        if world.discounts.contains_key(&ask.code) {
            return Err(format!("the code {} exists already", ask.code));
        }
        let discount = Discount {
            code: ask.code,
            kind: ask.kind,
            value: ask.value,
            minimum_cents: ask.minimum_cents,
            uses: 0,
            max_uses: ask.max_uses,
        };
        world.discounts.insert(discount.code.clone(), discount.clone());
        Ok(Json(discount))
    }

    /// Takes a discount off a pending order and answers the order with its new total.
    #[tool(annotations(
        title = "Apply a discount",
        read_only_hint = false,
        destructive_hint = true,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn apply_discount(&self, Parameters(ask): Parameters<ApplyDiscount>) -> Result<Json<Order>, String> {
        let mut world = self.world();
        let mut discount = discount(&world, &ask.code)?;
        let order = world.order_mut(&ask.order_id)?;
        if order.status != OrderStatus::Pending {
            return Err(format!("{} is {}; a discount needs a pending order", order.id, order.status.name()));
        }
        if discount.uses >= discount.max_uses {
            return Err(format!("{} was used {} times and is used up", discount.code, discount.uses));
        }
        if order.subtotal_cents < discount.minimum_cents {
            return Err(format!(
                "{} needs a subtotal of {} cents, {} has {}",
                discount.code, discount.minimum_cents, order.id, order.subtotal_cents
            ));
        }
        order.discount_cents = discount.amount(order.subtotal_cents);
        order.total_cents = order.subtotal_cents - order.discount_cents;
        order.discount_code = Some(discount.code.clone());
        let order = order.clone();
        discount.uses += 1;
        world.note(&order.id, order.status, format!("discount {} of {} cents", discount.code, order.discount_cents));
        world.discounts.insert(discount.code.clone(), discount);
        Ok(Json(order))
    }
}

fn discount(world: &World, code: &str) -> Result<Discount, String> {
    let found = world.discounts.get(&code.to_uppercase());
    found.cloned().ok_or_else(|| format!("there is no discount {code:?}; list_discounts shows the codes"))
}
