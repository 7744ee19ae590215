package sim

import "sync/atomic"

// Counters count what simulated devices did. Several devices may share one.
type Counters struct {
	Connected  atomic.Int64 // gauge: connections that are open now
	Dials      atomic.Int64 // attempts to connect
	DialErrors atomic.Int64 // of which failed before the upgrade was answered, over MQTT before there was a connection
	Logins     atomic.Int64 // auth_ok or CONNACK heard (not in version 1, which has none)
	Lost       atomic.Int64 // connections and attempts that ended, for whatever reason
	Telemetry  atomic.Int64 // readings sent, repetitions included
	Resent     atomic.Int64 // of which were made before the latest one: buffered or repeated
	Saved      atomic.Int64 // readings the hub called saved, or acknowledged
	Dropped    atomic.Int64 // readings lost because the buffer was full
	Commands   atomic.Int64 // commands heard
	Repeated   atomic.Int64 // of which had an id seen before and were not done again
	Refusals   atomic.Int64 // error answers heard
	Strange    atomic.Int64 // frames from the hub that are no JSON object
	Faults     atomic.Int64 // how often a fault acted
}

// Stats is a reading of Counters.
type Stats struct {
	Connected  int64 `json:"connected"`
	Dials      int64 `json:"dials"`
	DialErrors int64 `json:"dial_errors"`
	Logins     int64 `json:"logins"`
	Lost       int64 `json:"lost"`
	Telemetry  int64 `json:"telemetry"`
	Resent     int64 `json:"resent"`
	Saved      int64 `json:"saved"`
	Dropped    int64 `json:"dropped"`
	Commands   int64 `json:"commands"`
	Repeated   int64 `json:"repeated"`
	Refusals   int64 `json:"refusals"`
	Strange    int64 `json:"strange"`
	Faults     int64 `json:"faults"`
}

// Stats reads the counters, each by itself.
func (c *Counters) Stats() Stats {
	return Stats{
		Connected: c.Connected.Load(), Dials: c.Dials.Load(), DialErrors: c.DialErrors.Load(), Logins: c.Logins.Load(),
		Lost: c.Lost.Load(), Telemetry: c.Telemetry.Load(), Resent: c.Resent.Load(), Saved: c.Saved.Load(),
		Dropped: c.Dropped.Load(), Commands: c.Commands.Load(), Repeated: c.Repeated.Load(), Refusals: c.Refusals.Load(),
		Strange: c.Strange.Load(), Faults: c.Faults.Load(),
	}
}
