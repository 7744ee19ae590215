package broker

import "sync/atomic"

// Stats counts what the broker did since it was made. Those called gauges go down again.
type Stats struct {
	// Received and Delivered are application messages from publishers and to subscribers, those
	// sent again included; Duplicates were recognised and not taken again.
	Received                      Sum
	Delivered, Resent, Duplicates atomic.Int64
	// Connects, Resumed and TakenOver are CONNECTs admitted here, those that found their
	// session, and those that ended another connection.
	Connects, Resumed, TakenOver atomic.Int64
	// What subscribers did not get: SlowReader, with quality of service 0, because their
	// connection did not take it; QueueFull, because too much waited already; TooLarge for
	// their maximum packet size or the outbox; Expired; Lost could not be read from the disk.
	SlowReader, QueueFull, TooLarge, Expired, Lost atomic.Int64
	// Withdrawn waited because of subscriptions that were not allowed any more.
	Withdrawn atomic.Int64
	// What publishers were refused: by the gateway or the Taker (Refused), because they
	// ignored the receive maximum (OverReceiveMaximum), or had to wait (Waited).
	Refused, OverReceiveMaximum, Waited atomic.Int64
	// SessionsRefused are CONNECTs beyond MaxSessions, SubscriptionsRefused those beyond the
	// limits or the rights, RetainedRefused new topics beyond MaxRetained.
	SessionsRefused, SubscriptionsRefused, RetainedRefused atomic.Int64
	// Wills were published; SessionsExpired were ended by their expiry; RetainedExpired were
	// dropped by theirs.
	Wills, SessionsExpired, RetainedExpired atomic.Int64
	// Gauges: sessions with a connection, durable ones without, all durable ones; subscriptions;
	// retained messages and their bytes; messages and bytes that wait in queues;
	// acknowledgements that wait for a commit.
	Connected, Offline, Durable atomic.Int64
	Subscriptions               atomic.Int64
	Retained, RetainedBytes     atomic.Int64
	QueuedMessages, QueuedBytes atomic.Int64
	DirectBytes                 atomic.Int64 // memory of messages with quality of service 0 on their way
	WaitingAcks                 atomic.Int64
}

// Sum is a counter that is kept in parts.
type Sum struct{ of *index }

// Load gives the sum as it is now.
func (s *Sum) Load() int64 {
	n := int64(0)
	for i := range s.of.locks {
		n += s.of.locks[i].received.Load()
	}
	return n
}
