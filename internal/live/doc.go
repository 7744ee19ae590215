// Package live shows what happens to those who watch: people's pages, controllers, «signalbox
// watch». It turns the log's entries into events, each encoded once for each format however many
// watch, and gives them to viewers, each of which has a bounded queue.
//
// # Events
//
// An event is one JSON object, the same for Server-Sent Events and WebSocket:
//
//	{"kind":"telemetry","cursor":"k3f9q2-17","position":17,"device":"env01","received":…,"time":…,"object":{…}}
//	{"kind":"presence",  …,"received":…,"presence":{…}}
//	{"kind":"command",   …,"received":…,"command":{…}}
//	{"kind":"alert",     …,"received":…,"object":{…}}
//	{"kind":"state","position":…,"state":{…}}                    a device of the snapshot
//	{"kind":"ready","cursor":…,"devices":3}                      the snapshot, or what was missed, is complete
//	{"kind":"lagged","missed":120,"after":cursor,"until":cursor,"reason":"slow"}
//
// As Server-Sent Events its name is the kind and its id the cursor; over WebSocket it is one text
// frame. state and lagged have no cursor and no id: they are no places to come back to, and who
// breaks off behind one comes back with the cursor before it. devices is how many states the
// snapshot had; without a snapshot it is absent. Devices that wait for approval have no state. White space between the parts of a device's
// object is left out.
//
// lagged is in the place of what is missing, behind after and up to until. Its reason is slow
// (the viewer's queue was full; missed is exact), too_far (more was missed than Config.Resume;
// missed is the length of the log between, which bounds it), lost (the hub was killed before
// these were on disk, or restored from an older backup), unknown_cursor (it is another hub's, or
// too old), dropped (retention has dropped something of what was missed, of some device); in the
// last three nobody knows the number and missed is absent. dropped comes before what is left, which
// may lie between after and until, too; so until is no place to come back to. It comes once for
// each until, and again if retention drops more while the rest is read. For too_far, lost and
// unknown_cursor a snapshot follows if Options.Snapshot asks for one, and ready; for lost, too, since
// nobody knows what of it took place again. Of lost, until is the last place of the log that was
// on disk: what the log has behind it now comes out of history, after the snapshot.
//
// # Contract
//
//   - Order. A viewer gets events in the order of the log: their cursors only grow.
//   - Beginning. Without a cursor a viewer gets the state of each device it chose (if it asks for
//     that, and for telemetry or presence), then ready, then everything behind ready's cursor; an
//     event whose position is not above that of its device's state is in that state already. With
//     a cursor it gets what it missed, out of history, then ready, then what comes, without a gap
//     and without a repetition. What comes meanwhile and finds no room in the queue is taken out
//     of history, too: a beginning may be slow, and takes no memory for that.
//   - Loss. A viewer's queue has Config.Queue bytes. What does not fit is left out, block by
//     block, until half of the queue is free; it is counted, and the viewer is told in its place
//     (lagged, slow). When Run itself falls behind (Config.Intake), viewers get what it missed out
//     of history, each in its place. Nothing else is left out without a statement.
//   - Every. With Filter.Every a viewer gets at each tick the newest telemetry of each device that
//     had any, and everything else of that time, in the order of the log. Ticks are at least Every
//     apart, and one comes at once after a silence; only 256 KiB of what is no telemetry bring one
//     forward. What is read from history is thinned by the times of receipt.
//   - History. While the database server is away viewers stay, and wait for what they missed.
//     Imported telemetry is no news and is never shown. What retention has dropped cannot be shown;
//     viewers are told (lagged, dropped). Events of devices that are removed by now are left out everywhere;
//     types are those that devices have now.
//   - Concurrency. One goroutine (Run) hears the bus, encodes and hands out blocks of bytes, which
//     viewers share and must not change. It waits for no viewer. Viewers with the same filter and
//     format share a group; a device's message costs the groups that want it, not the viewers.
//     When many viewers were woken, Run lets messages gather for 20 µs a viewer, at most 5 ms.
//     Viewer.Next, Cursor and Close are for one goroutine; one who reads history has a second,
//     for which Close waits. With no viewer the hub costs the bus one atomic load an entry.
//   - Limits. At most Config.Viewers at a time; further ones get KindLimited, code too_many_viewers.
//     Config.PerUser of them may be of one Options.By, so that one cannot take all places
//     (too_many_own_viewers). A filter names MaxDevices devices and MaxTypes types at most.
//     A device is heard by at most Config.Choices different choices of fields or every that have
//     all devices, as many that have its type, and as many that have itself; further ones get code
//     too_many_choices: otherwise one who may only read could make Run too slow for everybody. One
//     Options.By may have half of them, not counting what others have chosen, too.
//     Config.Resumes viewers read history at the same time; others wait for their turn, which ends
//     for one that does not take what was read within 2 s, or, when others wait, within 50 ms, or
//     after 10 s.
//   - Memory. Blocks are given to the collector when the last viewer has let go of them; one has
//     about 64 KiB at most, and an event more. A snapshot is made piece by piece, as it is
//     written. A group with Every holds the newest message of each device: 34 bytes a device and
//     group (BenchmarkEveryMemory), half as much again while a tick is given, and for all groups
//     together an entry of 80 bytes with its body. At 100,000 devices 32 such groups take 110 MB,
//     and the messages 23 MB.
//   - Uncommitted. An event is shown when it has its place in the log, which is up to 50 ms before
//     it is on disk; what comes out of history is on disk.
package live
