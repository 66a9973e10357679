use rmcp::{Json, handler::server::wrapper::Parameters, tool, tool_router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Limit, page};
use crate::{
    model::{Category, Product},
    shop::Shop,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListProducts {
    category: Option<Category>,
    /// Leave out what cannot be sold right now.
    #[serde(default)]
    available_only: bool,
    #[serde(default)]
    limit: Limit,
    #[serde(default)]
    offset: u32,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sku {
    /// Like `KIT-003`.
    sku: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckStock {
    /// SKUs like `KIT-003`.
    #[schemars(length(min = 1, max = 50))]
    skus: Vec<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SkuQuantity {
    /// Like `KIT-003`.
    sku: String,
    #[schemars(range(min = 1, max = 10_000))]
    quantity: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct Products {
    products: Vec<Product>,
    /// How many match, shown here or not.
    total: usize,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct StockLevel {
    sku: String,
    available: u32,
    stock: u32,
    reserved: u32,
}

#[derive(Debug, Serialize, JsonSchema)]
pub struct StockLevels {
    levels: Vec<StockLevel>,
}

impl From<&Product> for StockLevel {
    fn from(product: &Product) -> Self {
        Self { sku: product.sku.clone(), available: product.available(), stock: product.stock, reserved: product.reserved }
    }
}

#[tool_router(router = inventory, vis = "pub(crate)")]
impl Shop {
    /// Products with price and stock, optionally of one category.
    #[tool(annotations(title = "List products", read_only_hint = true, open_world_hint = false))]
    fn list_products(&self, Parameters(ask): Parameters<ListProducts>) -> Result<Json<Products>, String> {
        let matches = |product: &&Product| {
            ask.category.is_none_or(|category| product.category == category) && (!ask.available_only || product.available() > 0)
        };
        let all = self.world().products.values().filter(matches).cloned().collect();
        let (products, total) = page(all, ask.limit, ask.offset)?;
        Ok(Json(Products { products, total }))
    }

    /// One product by its SKU.
    #[tool(annotations(title = "Get a product", read_only_hint = true, open_world_hint = false))]
    fn get_product(&self, Parameters(ask): Parameters<Sku>) -> Result<Json<Product>, String> {
        Ok(Json(self.world().product_mut(&ask.sku)?.clone()))
    }

    /// How many units of each SKU can be sold right now.
    #[tool(annotations(title = "Check stock", read_only_hint = true, open_world_hint = false))]
    fn check_stock(&self, Parameters(ask): Parameters<CheckStock>) -> Result<Json<StockLevels>, String> {
        let mut world = self.world();
        let level = |sku: &String| world.product_mut(sku).map(|product| StockLevel::from(&*product));
        let levels = ask.skus.iter().map(level).collect::<Result<_, _>>()?;
        Ok(Json(StockLevels { levels }))
    }

    /// Sets units aside, so that nobody else can order them.
    #[tool(annotations(
        title = "Reserve stock",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn reserve_stock(&self, Parameters(ask): Parameters<SkuQuantity>) -> Result<Json<StockLevel>, String> {
        let mut world = self.world();
        let product = world.product_mut(&ask.sku)?;
        if ask.quantity == 0 || ask.quantity > product.available() {
            return Err(format!("cannot reserve {} of {}: {} are available", ask.quantity, ask.sku, product.available()));
        }
        product.reserved += ask.quantity;
        Ok(Json(StockLevel::from(&*product)))
    }

    /// Adds units that arrived at the warehouse.
    #[tool(annotations(
        title = "Restock",
        read_only_hint = false,
        destructive_hint = false,
        idempotent_hint = false,
        open_world_hint = false
    ))]
    fn restock(&self, Parameters(ask): Parameters<SkuQuantity>) -> Result<Json<StockLevel>, String> {
        if !(1..=10_000).contains(&ask.quantity) {
            return Err(format!("quantity must be between 1 and 10000, not {}", ask.quantity));
        }
        let mut world = self.world();
        let product = world.product_mut(&ask.sku)?;
        product.stock = product.stock.saturating_add(ask.quantity);
        Ok(Json(StockLevel::from(&*product)))
    }
}
