// P4: rate-limiter-flexible on PostgreSQL, as its documentation has it: a pool, one key, one point a call.
import pg from 'pg';
import { RateLimiterPostgres } from 'rate-limiter-flexible';

const { host, user, database, clients, seconds, points } = JSON.parse(process.argv[2]);
const pool = new pg.Pool({ host, user, database, max: clients });
const key = 'hot';
const tableName = 'rate_limits';

// Its own table, with room for new versions on the page as ours has; it makes the table only where there is none.
const limiter = await new Promise((resolve, reject) => {
  const made = new RateLimiterPostgres(
    { storeClient: pool, schemaName: 'peers', tableName, tableCreated: true, points, duration: 0, keyPrefix: '' },
    (error) => (error ? reject(error) : setImmediate(() => resolve(made))),
  );
});

const read = async () => {
  const { rows } = await pool.query(`select coalesce(max(points), 0)::integer as points from peers.${tableName}`);
  return rows[0].points;
};

const before = await read();
const took = [];
const begin = performance.now();
const end = begin + seconds * 1000;
await Promise.all(
  Array.from({ length: clients }, async () => {
    for (let from = performance.now(); from < end; ) {
      await limiter.consume(key, 1);
      const now = performance.now();
      took.push(now - from);
      from = now;
    }
  }),
);
const elapsed = (performance.now() - begin) / 1000;
const counted = (await read()) - before;
await pool.end();

took.sort((a, b) => a - b);
console.log(
  JSON.stringify({
    consumed: took.length,
    counted,
    rate: took.length / elapsed,
    median_ms: took[Math.floor(took.length / 2)],
    p99_ms: took[Math.floor(took.length * 0.99)],
  }),
);
