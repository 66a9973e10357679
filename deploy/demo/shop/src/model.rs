//! The shop's nouns. Money is whole cents throughout; ids are readable, because people look at them in a demo.

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub type Cents = i64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Tier {
    Bronze,
    Silver,
    Gold,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Customer {
    /// Like `cus_0007`.
    pub id: String,
    pub name: String,
    pub email: String,
    pub phone: Option<String>,
    pub city: String,
    /// ISO 3166 code of two letters.
    pub country: String,
    pub tier: Tier,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum Category {
    Kitchen,
    Office,
    Outdoor,
    Books,
    Toys,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Product {
    /// Like `KIT-003`.
    pub sku: String,
    pub name: String,
    pub category: Category,
    pub price_cents: Cents,
    /// Units in the warehouse, the reserved ones included.
    pub stock: u32,
    /// Units promised to somebody and not yet shipped.
    pub reserved: u32,
}

impl Product {
    pub fn available(&self) -> u32 {
        self.stock.saturating_sub(self.reserved)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum OrderStatus {
    Pending,
    Paid,
    Shipped,
    Delivered,
    Cancelled,
    Refunded,
}

impl OrderStatus {
    /// As it stands in JSON, for texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Paid => "paid",
            Self::Shipped => "shipped",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
        }
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OrderLine {
    pub sku: String,
    pub name: String,
    pub quantity: u32,
    pub unit_price_cents: Cents,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Order {
    /// Like `ord_1042`.
    pub id: String,
    pub customer_id: String,
    pub status: OrderStatus,
    pub lines: Vec<OrderLine>,
    pub subtotal_cents: Cents,
    pub discount_code: Option<String>,
    pub discount_cents: Cents,
    /// Subtotal less discount.
    pub total_cents: Cents,
    pub refunded_cents: Cents,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct OrderEvent {
    pub at: DateTime<Utc>,
    pub status: OrderStatus,
    pub note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum DiscountKind {
    Percent,
    Fixed,
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Discount {
    pub code: String,
    pub kind: DiscountKind,
    /// Percent points, or cents where the kind is `fixed`.
    pub value: u32,
    /// The subtotal from which it may be used.
    pub minimum_cents: Cents,
    pub uses: u32,
    pub max_uses: u32,
}

impl Discount {
    /// What it takes off `subtotal`: never more than there is.
    pub fn amount(&self, subtotal: Cents) -> Cents {
        match self.kind {
            DiscountKind::Percent => subtotal * i64::from(self.value) / 100,
            DiscountKind::Fixed => i64::from(self.value).min(subtotal),
        }
    }
}

#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Email {
    /// Like `mail_0001`.
    pub id: String,
    pub to: String,
    pub subject: String,
    pub body: String,
    pub sent_at: DateTime<Utc>,
}
