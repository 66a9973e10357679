-- Providers that speak Google's generateContent and Amazon's Converse.

ALTER TABLE providers DROP CONSTRAINT providers_kind_check;
ALTER TABLE providers ADD CONSTRAINT providers_kind_check CHECK (kind IN ('openai', 'anthropic', 'gemini', 'bedrock'));
-- Where a request to Bedrock is signed for; nothing with the others.
ALTER TABLE providers ADD COLUMN region text;
ALTER TABLE providers ADD CONSTRAINT providers_region_check CHECK ((kind = 'bedrock') = (region IS NOT NULL));
