// Package live shows what happens to those who watch: people's pages, controllers, «signalbox
// watch». It turns the log's entries into events, each encoded once for each format however many
// watch, and gives them to viewers, each of which has a bounded queue.
//
// # Events
//
// An event is one JSON object, the same for Server-Sent Events and WebSocket:
//
//	{"kind":"telemetry","cursor":"k3f9q2-17","position":17,"device":"env01","received":…,"time":…,"object":{…}}
//	{"kind":"presence",  …,"presence":{…}}
//	{"kind":"command",   …,"command":{…}}
//	{"kind":"alert",     …,"object":{…}}
//	{"kind":"state","cursor":…,"position":…,"state":{…}}         a device of the snapshot
//	{"kind":"ready","cursor":…,"devices":3}                      the snapshot, or what was missed, is complete
//	{"kind":"lagged","missed":120,"after":cursor,"until":cursor,"reason":"slow"}
//
// As Server-Sent Events its name is the kind and its id the cursor; over WebSocket it is one text
// frame. lagged is in the place of what is missing: reason slow (the viewer's queue was full),
// too_far (more was missed than Config.Resume), lost (the hub was killed before these were on disk,
// or restored from an older backup), unknown_cursor (it is another hub's, or too old). In the last
// three cases a snapshot follows; for lost, too, since nobody knows what of it took place again.
//
// # Contract
//
//   - Order. A viewer gets events in the order of the log. After ready their cursors only grow.
//   - Beginning. Without a cursor a viewer gets the state of each device it chose, then ready, then
//     everything behind ready's cursor; an event whose position is not above that of its device's
//     state is in that state already. With a cursor it gets what it missed, out of history, then
//     ready, then what comes, without a gap and without a repetition.
//   - Loss. A viewer's queue has Config.Queue bytes. What does not fit is left out and counted, and
//     the viewer is told in its place (lagged, slow). Nothing is left out without that.
//   - Every. With Filter.Every a viewer gets at each tick the newest telemetry of each device that
//     had any, and everything else of that time, in the order of the log.
//   - Concurrency. One goroutine (Run) hears the bus, encodes and hands out blocks of bytes, which
//     viewers share and must not change. It waits for no viewer. Viewers with the same filter and
//     format share a group; a device's message costs the groups that want it, not the viewers.
//     Viewer.Next and Close are for one goroutine.
//   - Limits. At most Config.Viewers at a time; further ones get KindLimited, code too_many_viewers.
//     Config.Resumes viewers read history at the same time; others wait for their turn.
//   - Uncommitted. An event is shown when it has its place in the log, which is up to 50 ms before
//     it is on disk.
package live
