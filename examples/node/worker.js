// A worker that carries out workflows of a few steps and lets them rest where their tenant's quota is
// used up. Its queue is the table jobs of schema.sql, and its steps write into effects.

import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

/** @typedef {{ tenant: string, run_id: string, steps: number }} Job */
/** @typedef {{ outcome: string, step_id: string | null, used_count: string }} Start */
/** @typedef {(client: pg.PoolClient) => Promise<any>} Work */

const RUNTIME = 'node example';
const worker = `node ${process.pid}`;
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
pool.on('error', (error) => console.error(error.message)); // an idle connection was lost
let stopped = false;
let wake = new AbortController();

/**
 * One transaction.
 * @template T @param {(client: pg.PoolClient) => Promise<T>} work @returns {Promise<T>}
 */
async function transaction(work) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const answer = await work(client);
    await client.query('commit');
    client.release();
    return answer;
  } catch (error) {
    await client.query('rollback').then(() => client.release(), (lost) => client.release(lost));
    throw error;
  }
}

/** Resumed runs go back into the queue, and only then are they acknowledged. @type {Work} */
async function takeResumptions(client) {
  const { rows } = await client.query(
    'select * from stepquota.claim_workflow_run_resumptions($1, 10, p_runtime => $2)',
    [worker, RUNTIME]);
  for (const { tenant, run_id, resumption_id } of rows) {
    await client.query(
      `update jobs set state = 'ready' where tenant = $1 and run_id = $2 and state = 'paused'`,
      [tenant, run_id]);
    await client.query(
      'select stepquota.acknowledge_workflow_run_resumption($1::text, $2)', [tenant, resumption_id]);
  }
}

/**
 * The next job; a worker that has not moved for 5 seconds has lost its job.
 * @returns {Promise<Job | undefined>}
 */
async function takeJob() {
  const { rows } = await pool.query(`
    update jobs j set state = 'running', taken_at = now()
      from (select tenant, run_id from jobs
             where state = 'ready' or state = 'running' and taken_at < now() - interval '5 seconds'
             limit 1 for update skip locked) n
     where j.tenant = n.tenant and j.run_id = n.run_id
    returning j.tenant, j.run_id, j.steps`);
  return rows[0];
}

/**
 * Set the job's state, in the transaction of what it is about.
 * @param {pg.PoolClient} client @param {Job} job @param {string} state
 */
async function setState(client, job, state) {
  await client.query(
    `update jobs set state = $3, taken_at = now()
      where tenant = $1 and run_id = $2 and state = 'running'`,
    [job.tenant, job.run_id, state]);
}

/**
 * Start a step, or pause the job with it.
 * @param {Job} job @param {string} path @returns {Promise<Start>}
 */
function start(job, path) {
  return transaction(async (client) => {
    const { rows: [answer] } = await client.query(
      'select outcome, step_id, used_count from stepquota.start_workflow_step($1::text, $2::text, $3)',
      [job.tenant, job.run_id, path]);
    const isRefused = ['quota_paused', 'held'].includes(answer.outcome);
    await setState(client, job, isRefused ? 'paused' : 'running');
    return answer;
  });
}

/** Carry a job out from its first step; what is done answers already_finished. @param {Job} job */
async function carryOut(job) {
  const key = [job.tenant, job.run_id];
  await pool.query(
    'select stepquota.register_workflow_run($1::text, $2::text, null, $3)', [...key, RUNTIME]);
  for (let step = 0; step < job.steps; step++) {
    const path = `root.steps[${step}]`;
    const { outcome, step_id, used_count } = await start(job, path);
    console.log(job.run_id, path, outcome, used_count);
    if (outcome === 'already_finished') continue;
    if (outcome !== 'started' && outcome !== 'already_started') return;
    // The step's work. Its id is the same if it is done again after a crash.
    await pool.query('insert into effects values ($1, $2) on conflict do nothing', [step_id, worker]);
    await pool.query(
      `select stepquota.finish_workflow_step($1::text, $2::text, $3, 1, 'SUCCEEDED')`, [...key, path]);
  }
  await transaction(async (client) => {
    await client.query(`select stepquota.finish_workflow_run($1::text, $2::text, 'SUCCEEDED')`, key);
    await setState(client, job, 'done');
  });
}

/** Hear of resumptions. It is a hint only: the loop looks every second anyway. */
async function listen() {
  while (!stopped) {
    const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
    const lost = new Promise((resolve) => {
      client.on('end', () => resolve(null)).on('error', () => resolve(null));
    });
    client.on('notification', () => wake.abort());
    await client.connect().then(() => client.query('listen stepquota_resumption'), () => {});
    await Promise.race([lost, new Promise((resolve) => process.once('SIGTERM', () => resolve(null)))]);
    await client.end().catch(() => {});
    if (!stopped) await sleep(1000);
  }
}

process.once('SIGTERM', () => { stopped = true; wake.abort(); });
const listening = listen();
while (!stopped) {
  try {
    await transaction(takeResumptions);
    const job = await takeJob();
    if (job) { await carryOut(job); continue; }
  } catch (error) {
    // The job is taken again in 5 seconds, by whoever comes first. WQ006: it was cancelled meanwhile.
    console.error(error instanceof pg.DatabaseError ? `${error.code} ${error.message}` : error);
  }
  wake = new AbortController();
  await sleep(1000, null, { signal: wake.signal }).catch(() => {});
}
await listening;
await pool.end();
