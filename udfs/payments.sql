-- Functions to share between pipelines: name this file before the ones that call them.
--
--   weir run udfs/payments.sql sql/my_pipeline.sql

-- A payment's size class as analysts call it.
CREATE FUNCTION amount_class(amount DOUBLE) RETURNS STRING IMMUTABLE LANGUAGE sql AS $$
  CASE WHEN amount < 20 THEN 'small' WHEN amount <= 220 THEN 'usual' ELSE 'large' END
$$;

-- Keeps the last four characters of a card number.
CREATE FUNCTION mask_card(card STRING) RETURNS STRING IMMUTABLE LANGUAGE sql AS $$
  concat('****', right(card, 4))
$$;

-- Twice as suspicious for twice the amount; 0 for refunds.
CREATE FUNCTION amount_risk(amount DOUBLE, usual DOUBLE) RETURNS DOUBLE IMMUTABLE LANGUAGE sql AS $$
  CASE WHEN amount <= 0 THEN 0.0 ELSE amount / (usual + 1.0) END
$$;
