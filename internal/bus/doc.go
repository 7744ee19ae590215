// Package bus carries the log's entries to everyone in this process who listens: viewers,
// rules, forwarders.
//
// Contract. Publish is called in log order and never waits: each subscriber has its own
// bounded queue, and what does not fit is not queued but counted, so that the subscriber
// learns how much it missed (policy «lagged»). With no subscriber Publish costs one
// atomic load. Entries are copied once for all subscribers.
package bus
