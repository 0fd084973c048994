// Who started this process: one example of the environment of every launcher, and mixes of them.
import { expect, describe as group, test } from 'vitest';
import { detectLaunch, detectNode, type Environment, type RankLaunch } from '../lib/distributed/environment.js';
import { meet } from '../lib/distributed/rendezvous.js';
import { expandCounts, expandHosts } from '../lib/distributed/slurm.js';
import { DistributedError } from '../lib/errors.js';

function rankOf(env: Environment): RankLaunch {
  const launch = detectLaunch(env);
  if (launch.level !== 'rank') throw new Error('expected a rank');
  return launch;
}

const torchrun = {
  RANK: '5',
  WORLD_SIZE: '8',
  LOCAL_RANK: '1',
  LOCAL_WORLD_SIZE: '4',
  GROUP_RANK: '1',
  GROUP_WORLD_SIZE: '2',
  MASTER_ADDR: 'node0',
  MASTER_PORT: '29500',
  TORCHELASTIC_RUN_ID: 'run7',
  TORCHELASTIC_RESTART_COUNT: '2',
};
const slurm = {
  SLURM_JOB_ID: '123456',
  SLURM_STEP_ID: '0',
  SLURM_PROCID: '3',
  SLURM_LOCALID: '1',
  SLURM_NODEID: '1',
  SLURM_STEP_NUM_TASKS: '5',
  SLURM_NTASKS: '64',
  SLURM_STEP_NUM_NODES: '2',
  SLURM_NNODES: '8',
  SLURM_STEP_TASKS_PER_NODE: '2,3',
  SLURM_STEP_NODELIST: 'gpu[07-08]',
  SLURM_JOB_NODELIST: 'gpu[01-08]',
};
const openMpi = {
  OMPI_COMM_WORLD_RANK: '3',
  OMPI_COMM_WORLD_SIZE: '4',
  OMPI_COMM_WORLD_LOCAL_RANK: '1',
  OMPI_COMM_WORLD_LOCAL_SIZE: '2',
  OMPI_COMM_WORLD_NODE_RANK: '1',
  PMIX_NAMESPACE: '2846818305',
};

group('one launcher', () => {
  test('alone', () => {
    const alone = {
      level: 'rank',
      launcher: 'none',
      rank: 0,
      worldSize: 1,
      localRank: 0,
      localWorldSize: 1,
      nodeRank: 0,
      nnodes: 1,
      masterAddr: '127.0.0.1',
      masterPort: 29500,
      storePorts: [29500, 29501],
      storeRuns: false,
      runId: 'none',
      restartCount: 0,
    };
    expect(detectLaunch({})).toEqual(alone);
    expect(detectLaunch({ PATH: '/bin', RANK: '', WORLD_SIZE: '' })).toEqual(alone);
  });

  test('our own', () => {
    const env = { ...torchrun, TORCHELASTIC_RUN_ID: undefined, SHARDGRAD_STORE_PORT: '29501', SHARDGRAD_RUN_ID: 'mine', SHARDGRAD_RESTART_COUNT: '1' };
    expect(rankOf(env)).toMatchObject({
      launcher: 'shardgrad',
      rank: 5,
      localWorldSize: 4,
      nodeRank: 1,
      nnodes: 2,
      storePorts: [29501],
      storeRuns: true,
      runId: 'mine',
      restartCount: 1,
    });
  });

  test('torchrun keeps the master port to itself', () => {
    expect(rankOf(torchrun)).toMatchObject({
      launcher: 'torchrun',
      rank: 5,
      worldSize: 8,
      localRank: 1,
      localWorldSize: 4,
      nodeRank: 1,
      nnodes: 2,
      masterAddr: 'node0',
      masterPort: 29500,
      storePorts: [29501, 29502],
      storeRuns: false,
      runId: 'run7',
      restartCount: 2,
    });
    expect(rankOf({ ...torchrun, MASTER_PORT: '65535' }).storePorts).toEqual([65534, 65533]);
  });

  test('a step of Slurm, not its allocation', () => {
    const expected = {
      launcher: 'Slurm',
      rank: 3,
      worldSize: 5,
      localRank: 1,
      localWorldSize: 3,
      nodeRank: 1,
      nnodes: 2,
      masterAddr: 'gpu07',
      masterPort: 13456,
      runId: '123456.0',
    };
    expect(rankOf(slurm)).toMatchObject(expected);
    expect(rankOf({ ...slurm, MASTER_ADDR: 'other', MASTER_PORT: '4000' })).toMatchObject({ ...expected, masterAddr: 'other', masterPort: 4000 });
    // requeued
    expect(rankOf({ ...slurm, SLURM_RESTART_COUNT: '1' }).restartCount).toBe(1);
  });

  test.each([undefined, '', '4294967290', '4294967291', 'batch', 'interactive'])('an allocation of Slurm without a step (%s) is a single process', (step) => {
    expect(rankOf({ ...slurm, SLURM_STEP_ID: step })).toMatchObject({ launcher: 'none', worldSize: 1 });
    expect(detectNode({ ...slurm, SLURM_STEP_ID: step })).toMatchObject({ launcher: 'none', nnodes: 1 });
  });

  test('Open MPI says no address', () => {
    expect(() => detectLaunch(openMpi)).toThrow('the address of rank 0 is not known (4 ranks, launcher: Open MPI): set MASTER_ADDR');
    expect(rankOf({ ...openMpi, MASTER_ADDR: 'h0' })).toMatchObject({
      launcher: 'Open MPI',
      rank: 3,
      localRank: 1,
      nodeRank: 1,
      nnodes: 2,
      masterAddr: 'h0',
      runId: '2846818305',
    });
    // --map-by node
    expect(rankOf({ ...openMpi, OMPI_COMM_WORLD_RANK: '2', MASTER_ADDR: 'h0' }).nodeRank).toBe(0);
    const oneHost = { ...openMpi, OMPI_COMM_WORLD_LOCAL_RANK: '3', OMPI_COMM_WORLD_LOCAL_SIZE: '4' };
    expect(rankOf(oneHost)).toMatchObject({ masterAddr: '127.0.0.1', nnodes: 1, nodeRank: 0, masterPort: 10000 + (2846818305 % 20000) });
  });

  test('MPICH and PALS', () => {
    expect(rankOf({ PMI_RANK: '1', PMI_SIZE: '2', MPI_LOCALRANKID: '1', MPI_LOCALNRANKS: '2' })).toMatchObject({
      launcher: 'MPICH',
      rank: 1,
      worldSize: 2,
      localRank: 1,
      nnodes: 1,
    });
    const pals = { PALS_RANKID: '3', PMI_SIZE: '4', PALS_LOCAL_RANKID: '1', PALS_LOCAL_SIZE: '2', MASTER_ADDR: 'x' };
    expect(rankOf(pals)).toMatchObject({ launcher: 'MPICH', rank: 3, localRank: 1, nodeRank: 1, nnodes: 2 });
    expect(() => detectLaunch({ PMI_RANK: '1', PMI_SIZE: '2' })).toThrow('set LOCAL_RANK and LOCAL_WORLD_SIZE');
    expect(() => detectLaunch({ PMI_RANK: '1' })).toThrow('PMI_SIZE is missing in the environment, though PMI_RANK is set');
  });

  test('RANK and WORLD_SIZE alone, as PyTorchJob sets them: a rank is a pod', () => {
    const env = { RANK: '1', WORLD_SIZE: '3', MASTER_ADDR: 'job-master-0', MASTER_PORT: '23456' };
    expect(rankOf(env)).toMatchObject({ launcher: 'RANK and WORLD_SIZE', rank: 1, worldSize: 3, localWorldSize: 1, nodeRank: 1, nnodes: 3, masterPort: 23456 });
    expect(detectNode(env)).toMatchObject({
      launcher: 'RANK and WORLD_SIZE',
      nodeRank: 1,
      nnodes: 3,
      nprocPerNode: null,
      masterAddr: 'job-master-0',
      masterPort: 23456,
    });
  });

  test('Kubeflow v2: PET_* describe a node', () => {
    const env = {
      PET_NNODES: '2',
      PET_NPROC_PER_NODE: '4',
      PET_NODE_RANK: '1',
      PET_MASTER_ADDR: 'job-node-0-0.job',
      PET_MASTER_PORT: '29400',
      JOB_COMPLETION_INDEX: '1',
    };
    const node = { level: 'node', launcher: 'Kubeflow', nodeRank: 1, nnodes: 2, nprocPerNode: 4, masterAddr: 'job-node-0-0.job', masterPort: 29400 };
    expect(detectLaunch(env)).toMatchObject(node);
    expect(detectNode(env)).toMatchObject(node);
    expect(detectNode({ ...env, PET_NODE_RANK: undefined })).toMatchObject(node);
    expect(rankOf({ ...env, PET_NPROC_PER_NODE: '1' })).toMatchObject({ launcher: 'Kubeflow', rank: 1, worldSize: 2, masterAddr: 'job-node-0-0.job' });
    expect(detectLaunch({ ...env, PET_NPROC_PER_NODE: 'auto' })).toMatchObject({ level: 'node', nprocPerNode: 'auto' });
    expect(detectNode({ PET_NNODES: '2:2', PET_NODE_RANK: '0', PET_RDZV_ENDPOINT: 'host:1234', PET_RDZV_ID: 'x' })).toMatchObject({
      nnodes: 2,
      masterAddr: 'host',
      masterPort: 1234,
      runId: 'x',
    });
    expect(() => detectNode({ PET_NNODES: '1:4', PET_NODE_RANK: '0' })).toThrow('a range of nodes (1:4) needs an elastic launcher');
    // under torchrun, whose options they are, the ranks are torchrun's
    expect(rankOf({ ...env, ...torchrun }).launcher).toBe('torchrun');
  });

  test('an indexed job of Kubernetes', () => {
    expect(rankOf({ JOB_COMPLETION_INDEX: '2' })).toMatchObject({ launcher: 'none', worldSize: 1 });
    expect(rankOf({ JOB_COMPLETION_INDEX: '2', WORLD_SIZE: '4', MASTER_ADDR: 'pod-0' })).toMatchObject({
      launcher: 'Kubernetes',
      rank: 2,
      worldSize: 4,
      nodeRank: 2,
    });
    expect(() => detectLaunch({ JOB_COMPLETION_INDEX: '2', MASTER_ADDR: 'pod-0' })).toThrow('WORLD_SIZE is missing');
    expect(detectNode({ JOB_COMPLETION_INDEX: '2', MASTER_ADDR: 'pod-0' })).toMatchObject({
      launcher: 'Kubernetes',
      nodeRank: 2,
      nnodes: null,
      masterAddr: 'pod-0',
    });
  });

  test('by hand', () => {
    expect(rankOf({ RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: 'a' })).toMatchObject({
      launcher: 'RANK and WORLD_SIZE',
      rank: 3,
      nodeRank: 1,
      nnodes: 2,
    });
    expect(detectNode({ RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: 'a' })).toMatchObject({ launcher: 'none', nnodes: 1 });
    expect(() => detectLaunch({ RANK: '4', WORLD_SIZE: '4', MASTER_ADDR: 'a' })).toThrow(/^RANK and WORLD_SIZE: rank 4 is not below world size 4$/);
  });

  test('without a token, whoever set the ranks is named, and what to do under any of them', async () => {
    const missing = async (env: Environment): Promise<string> => ((await meet(rankOf(env), env).catch((error: Error) => error)) as Error).message;
    const remedy = "the job's token is missing; give every host the same one in SHARDGRAD_TOKEN, or to shardgrad run by --token-file";
    expect(await missing({ RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'a' })).toBe(
      `dist.init by RANK and WORLD_SIZE, as torchrun or PyTorchJob set them: ${remedy}`,
    );
    expect(await missing(slurm)).toBe(`dist.init under Slurm: ${remedy}`);
  });
});

group('several launchers', () => {
  test('that agree are merged', () => {
    const byHand = { RANK: '3', WORLD_SIZE: '5', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '3' };
    expect(rankOf({ ...slurm, ...byHand })).toMatchObject({ launcher: 'Slurm', rank: 3, masterAddr: 'gpu07', nodeRank: 1 });
    const pods = { RANK: '1', WORLD_SIZE: '2', PET_NNODES: '2', PET_NODE_RANK: '1', PET_NPROC_PER_NODE: '4', PET_MASTER_ADDR: 'm' };
    expect(detectLaunch(pods)).toMatchObject({ level: 'node', nprocPerNode: 4, nnodes: 2, nodeRank: 1 });
    expect(detectNode(pods)).toMatchObject({ nprocPerNode: 4, nnodes: 2, nodeRank: 1, masterAddr: 'm' });
  });

  test('the innermost that marks its processes wins', () => {
    expect(rankOf({ ...slurm, ...torchrun })).toMatchObject({ launcher: 'torchrun', rank: 5, worldSize: 8, masterAddr: 'node0' });
    expect(detectNode({ ...slurm, ...torchrun })).toMatchObject({ launcher: 'none', nnodes: 1 });
  });

  test('mpirun whose daemons Slurm started, one a node', () => {
    const daemon = { ...slurm, SLURM_STEP_NUM_TASKS: '2', SLURM_STEP_TASKS_PER_NODE: '1(x2)', SLURM_PROCID: '1', SLURM_LOCALID: '0' };
    expect(rankOf({ ...daemon, ...openMpi, MASTER_ADDR: 'h' })).toMatchObject({ launcher: 'Open MPI', rank: 3, worldSize: 4 });
  });

  test('that disagree are refused with a table', () => {
    const error = (env: Environment): string => {
      try {
        detectLaunch(env);
      } catch (thrown) {
        expect(thrown).toBeInstanceOf(DistributedError);
        return (thrown as Error).message;
      }
      throw new Error('expected a refusal');
    };
    const text = error({ ...slurm, RANK: '0', WORLD_SIZE: '2', MASTER_ADDR: 'a' });
    expect(text.split('\n').slice(1)).toEqual([
      '  launcher             rank  of  local  node  of  from',
      expect.stringMatching(/^ {2}Slurm {16}3 {5}5 {3}1 {6}1 {5}2 {3}SLURM_STEP_ID=0 SLURM_PROCID=3 SLURM_STEP_NUM_TASKS=5 /),
      '  RANK and WORLD_SIZE  0     2   0      0     2   RANK=0 WORLD_SIZE=2',
    ]);
    expect(error({ ...torchrun, SHARDGRAD_STORE_PORT: '1' })).toContain('shardgrad');
    expect(error({ ...openMpi, ...slurm })).toContain('OMPI_COMM_WORLD_RANK=3');
    expect(error({ ...openMpi, PET_NPROC_PER_NODE: '4', PET_NNODES: '4', PET_NODE_RANK: '3' })).toContain('Kubeflow');
    expect(() => detectNode({ PET_NNODES: '2', PET_NODE_RANK: '1', RANK: '0', WORLD_SIZE: '2' })).toThrow('they disagree');
  });

  test('a node on which a launcher started several processes starts no ranks', () => {
    expect(() => detectNode(slurm)).toThrow('Slurm started 3 processes on this node');
    expect(detectNode({ ...slurm, SLURM_STEP_TASKS_PER_NODE: '1(x5)', SLURM_LOCALID: '0' })).toMatchObject({
      launcher: 'Slurm',
      nodeRank: 1,
      nnodes: 2,
      masterAddr: 'gpu07',
      masterPort: 13456,
    });
  });
});

test('what the caller says wins', () => {
  expect(detectLaunch({ ...slurm, RANK: '0', WORLD_SIZE: '2' }, { rank: 1, worldSize: 2, masterAddr: 'me', masterPort: 5000 })).toMatchObject({
    rank: 1,
    worldSize: 2,
    masterAddr: 'me',
    masterPort: 5000,
    storePorts: [5000, 5001],
  });
  expect(detectLaunch(torchrun, { masterAddr: 'me', runId: 'r' })).toMatchObject({ launcher: 'torchrun', masterAddr: 'me', runId: 'r', rank: 5 });
  expect(() => detectLaunch({}, { rank: 1 })).toThrow('rank and worldSize go together');
});

test.each([
  [{ RANK: '0' }, 'WORLD_SIZE is missing in the environment, though RANK is set'],
  [{ RANK: 'x', WORLD_SIZE: '2' }, 'RANK in the environment must be a whole number from 0, got "x"'],
  [{ RANK: '-1', WORLD_SIZE: '2' }, 'RANK in the environment must be'],
  [{ RANK: '2', WORLD_SIZE: '2', MASTER_ADDR: 'a' }, 'rank 2 is not below world size 2'],
  [{ RANK: '0', WORLD_SIZE: '0' }, 'world size must be a whole number from 1'],
  [{ ...torchrun, LOCAL_RANK: '4' }, 'torchrun: local rank 4 is not below local world size 4'],
  [{ ...torchrun, LOCAL_WORLD_SIZE: '9' }, 'local world size 9 is above world size 8'],
  [{ ...torchrun, RANK: undefined }, 'RANK is missing in the environment, though TORCHELASTIC_RUN_ID is set'],
  [{ ...torchrun, MASTER_PORT: '70000' }, 'MASTER_PORT in the environment must be a port from 1 to 65535, got "70000"'],
  [{ ...torchrun, MASTER_PORT: 'http' }, 'MASTER_PORT'],
  [{ ...slurm, SLURM_STEP_NODELIST: 'gpu[1-' }, "the environment's Slurm host list is malformed"],
  [{ ...slurm, SLURM_STEP_TASKS_PER_NODE: '2(x' }, "the environment's Slurm list of tasks per node is malformed"],
  [{ PET_NPROC_PER_NODE: 'many' }, 'PET_NPROC_PER_NODE in the environment must be a whole number from 1, auto, cpu or gpu, got "many"'],
  [{ PET_NNODES: '0' }, 'PET_NNODES in the environment must be a whole number from 1'],
])('malformed: %j', (env, text) => {
  expect(() => detectLaunch(env)).toThrow(text);
});

test('lists of Slurm', () => {
  expect(expandHosts('a')).toEqual(['a']);
  expect(expandHosts('a[1-3,7]')).toEqual(['a1', 'a2', 'a3', 'a7']);
  expect(expandHosts('a[1-3,7],login,b-[098-101].net')).toEqual(['a1', 'a2', 'a3', 'a7', 'login', 'b-098.net', 'b-099.net', 'b-100.net', 'b-101.net']);
  expect(expandHosts('r[1-2]n[1,3]')).toEqual(['r1n1', 'r1n3', 'r2n1', 'r2n3']);
  expect(expandCounts('2(x3),1')).toEqual([2, 2, 2, 1]);
  expect(expandCounts('4')).toEqual([4]);
  for (const bad of ['', 'a,', 'a[', 'a]', 'a[1-]', 'a[3-1]', 'a[1-999999999]', 'a[1-999][1-999]', 'a[x]', 'a[[1]]']) {
    expect(() => expandHosts(bad), bad).toThrow(DistributedError);
  }
  for (const bad of ['', 'x', '2(x)', '1(x999999)']) expect(() => expandCounts(bad), bad).toThrow(DistributedError);
});
