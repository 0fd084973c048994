// The public part of shardgrad/distributed.
export {
  detectLaunch,
  type Environment,
  type ExplicitLaunch,
  type LauncherName,
  type NodeLaunch,
  type RankCount,
  type RankLaunch,
} from './environment.js';
export { meet, type Rendezvous } from './rendezvous.js';
export { Store, type StoreCallOptions, type StoreOptions, type StoreValue } from './store.js';
export { StoreServer, type StoreServerOptions } from './store_server.js';
