CREATE TABLE t (a INT) TBLPROPERTIES ('delta.enableChangeDatafeed' = 'true', 'weir.autocompact' = 'true');
CREATE PIPELINE p WITH (triger = '1 second', max_delay = 'soon', max_rows_per_micro_batch = '0', rolling_emit = 'on_arrival')
AS BEGIN
  INSERT INTO t SELECT 1;
END;
CREATE PIPELINE q WITH (trigger = 'sometimes') AS BEGIN
  INSERT INTO t SELECT 1;
END;
