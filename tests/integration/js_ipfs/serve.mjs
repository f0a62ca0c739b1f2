// An IPFS node of js-ipfs that knows nobody: its RPC on loopback, a repository of its own, and the
// address of the RPC as its first line.  It ends with its standard input.
//
//   node serve.mjs REPOSITORY

// What js-ipfs depends on has moved on to Node 22.
Promise.withResolvers ??= function () {
  let resolve, reject
  const promise = new this((yes, no) => { [resolve, reject] = [yes, no] })
  return { promise, resolve, reject }
}

const { create } = await import('ipfs-core')
const { HttpApi } = await import('ipfs-http-server')

const node = await create({
  repo: process.argv[2],
  offline: true,
  silent: true,
  init: { emptyRepo: true, profiles: ['test'] },
  config: {
    Addresses: { Swarm: [], API: '/ip4/127.0.0.1/tcp/0', Gateway: '' },
    Bootstrap: [],
    Discovery: { MDNS: { Enabled: false }, webRTCStar: { Enabled: false } },
    Pubsub: { Enabled: false },
    Routing: { Type: 'none' }
  }
})
const api = new HttpApi(node)
await api.start()
console.log(`${api.apiAddr}`)
process.stdin.resume().on('end', () => process.exit())
