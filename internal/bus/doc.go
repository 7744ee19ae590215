// Package bus carries the log's entries to everyone in this process who listens: viewers,
// rules, forwarders.
//
// Contract. Publish is called in log order and never waits: each subscriber has its own
// queue, bounded in entries and in bytes, and what does not fit is not queued but counted, so
// that the subscriber learns how much it missed (policy «lagged»). From then on nothing is
// queued for it until it was told: what it missed lies behind all that it got before.
//
// Publish is on the road of the devices. With no subscriber it costs one atomic load; otherwise
// a call of each filter, and for those that want the entry a place in a queue. The body is copied
// once for all of them, and not at all when none has room: one that lags costs a count.
package bus
