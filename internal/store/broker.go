package store

import (
	"context"
	"database/sql"
	"fmt"
)

// BrokerSession is an MQTT session as stored; what its fields hold is the broker's business.
type BrokerSession struct {
	ID                      uint64
	Head, Will, Subs, State []byte
}

// BrokerRow is a row of messages that wait in the queue of an MQTT session: those with the
// numbers First to Last that were not done with when it was written. Bytes is their size.
type BrokerRow struct {
	ID, Session        uint64
	First, Last, Bytes int64
	Body               []byte
}

// some gives b, which must not be NULL.
func some(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// PutBrokerSession stores all of b.
func (tx *Tx) PutBrokerSession(ctx context.Context, b *BrokerSession) error {
	_, err := tx.Exec(ctx, `INSERT INTO broker_session (id, head, will, subs, state) VALUES (?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET head = excluded.head, will = excluded.will, subs = excluded.subs, state = excluded.state`,
		int64(b.ID), some(b.Head), some(b.Will), some(b.Subs), some(b.State))
	return wrap("store MQTT session", err)
}

// UpdateBrokerSession overwrites all but the subscriptions.
func (tx *Tx) UpdateBrokerSession(ctx context.Context, b *BrokerSession) error {
	_, err := tx.Exec(ctx, `UPDATE broker_session SET head = ?, will = ?, state = ? WHERE id = ?`, some(b.Head), some(b.Will), some(b.State), int64(b.ID))
	return wrap("store MQTT session", err)
}

// UpdateBrokerWill overwrites will and state.
func (tx *Tx) UpdateBrokerWill(ctx context.Context, b *BrokerSession) error {
	_, err := tx.Exec(ctx, `UPDATE broker_session SET will = ?, state = ? WHERE id = ?`, some(b.Will), some(b.State), int64(b.ID))
	return wrap("store MQTT session", err)
}

// UpdateBrokerState overwrites the state alone.
func (tx *Tx) UpdateBrokerState(ctx context.Context, b *BrokerSession) error {
	_, err := tx.Exec(ctx, `UPDATE broker_session SET state = ? WHERE id = ?`, some(b.State), int64(b.ID))
	return wrap("store MQTT session", err)
}

// UpdateBrokerSubs overwrites the subscriptions alone.
func (tx *Tx) UpdateBrokerSubs(ctx context.Context, id uint64, subs []byte) error {
	_, err := tx.Exec(ctx, `UPDATE broker_session SET subs = ? WHERE id = ?`, some(subs), int64(id))
	return wrap("store MQTT subscriptions", err)
}

// DeleteBrokerSession deletes a session; the rows of its queue stay, see PruneBrokerQueue.
func (tx *Tx) DeleteBrokerSession(ctx context.Context, id uint64) error {
	_, err := tx.Exec(ctx, `DELETE FROM broker_session WHERE id = ?`, int64(id))
	return wrap("delete MQTT session", err)
}

// BrokerSessions calls yield for each session, by ID. What it gets is lent for the call.
func (s *Store) BrokerSessions(ctx context.Context, yield func(b *BrokerSession) error) error {
	return s.each(ctx, "MQTT sessions", `SELECT id, head, will, subs, state FROM broker_session ORDER BY id`, func(rows *sql.Rows) error {
		var (
			id                      int64
			head, will, subs, state sql.RawBytes
		)
		if err := rows.Scan(&id, &head, &will, &subs, &state); err != nil {
			return err
		}
		return yield(&BrokerSession{ID: uint64(id), Head: head, Will: will, Subs: subs, State: state})
	})
}

// brokerSubs is how many sessions BrokerSubs reads at once.
const brokerSubs = 16

// BrokerSubs calls yield for each of these sessions that is stored, in no order. subs may be
// kept.
func (s *Store) BrokerSubs(ctx context.Context, ids []uint64, yield func(id uint64, subs []byte) error) error {
	for len(ids) > 0 {
		n := min(len(ids), brokerSubs)
		if err := s.brokerSubs(ctx, ids[:n], yield); err != nil {
			return fmt.Errorf("read MQTT subscriptions: %w", err)
		}
		ids = ids[n:]
	}
	return nil
}

func (s *Store) brokerSubs(ctx context.Context, ids []uint64, yield func(id uint64, subs []byte) error) error {
	args := make([]any, brokerSubs)
	for i := range args {
		args[i] = int64(ids[min(i, len(ids)-1)])
	}
	rows, err := s.read.QueryContext(ctx, `SELECT id, subs FROM broker_session WHERE id IN (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)`, args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	for rows.Next() {
		var (
			id   int64
			subs []byte
		)
		if err := rows.Scan(&id, &subs); err != nil {
			return err
		}
		if err := yield(uint64(id), subs); err != nil {
			return err
		}
	}
	return rows.Err()
}

// PutBrokerRow stores a row of a queue; the same row a second time does no harm.
func (tx *Tx) PutBrokerRow(ctx context.Context, r *BrokerRow) error {
	_, err := tx.Exec(ctx, `INSERT INTO broker_queue (id, session, n0, n1, bytes, body) VALUES (?,?,?,?,?,?)
		ON CONFLICT (id) DO UPDATE SET session = excluded.session, n0 = excluded.n0, n1 = excluded.n1, bytes = excluded.bytes, body = excluded.body`,
		int64(r.ID), int64(r.Session), r.First, r.Last, r.Bytes, some(r.Body))
	return wrap("store MQTT messages", err)
}

// PruneBrokerQueue deletes up to limit rows of a session's queue whose last message has a
// number less than below, and says how many.
func (tx *Tx) PruneBrokerQueue(ctx context.Context, session uint64, below int64, limit int) (int64, error) {
	res, err := tx.Exec(ctx, `DELETE FROM broker_queue WHERE id IN (SELECT id FROM (SELECT id FROM broker_queue WHERE session = ? AND n1 < ? ORDER BY n0 LIMIT ?) AS old)`,
		int64(session), below, limit)
	if err != nil {
		return 0, fmt.Errorf("prune MQTT messages: %w", err)
	}
	return res.RowsAffected()
}

// BrokerRows gives up to limit rows of a session's queue that reach to the number from or
// beyond, in order.
func (s *Store) BrokerRows(ctx context.Context, session uint64, from int64, limit int) ([]BrokerRow, error) {
	rows, err := s.read.QueryContext(ctx, `SELECT id, n0, n1, bytes, body FROM broker_queue WHERE session = ? AND n1 >= ? ORDER BY n0 LIMIT ?`, int64(session), from, limit)
	if err != nil {
		return nil, fmt.Errorf("read MQTT messages: %w", err)
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	var found []BrokerRow
	for rows.Next() {
		var id int64
		r := BrokerRow{Session: session}
		if err := rows.Scan(&id, &r.First, &r.Last, &r.Bytes, &r.Body); err != nil {
			return nil, fmt.Errorf("read MQTT messages: %w", err)
		}
		r.ID = uint64(id)
		found = append(found, r)
	}
	return found, wrap("read MQTT messages", rows.Err())
}

// BrokerQueueHeads calls yield for each row of all queues, by session and number, without its
// body.
func (s *Store) BrokerQueueHeads(ctx context.Context, yield func(r BrokerRow) error) error {
	return s.each(ctx, "MQTT messages", `SELECT session, n0, n1, bytes FROM broker_queue ORDER BY session, n0`, func(rows *sql.Rows) error {
		var (
			session int64
			r       BrokerRow
		)
		if err := rows.Scan(&session, &r.First, &r.Last, &r.Bytes); err != nil {
			return err
		}
		r.Session = uint64(session)
		return yield(r)
	})
}

// LastBrokerRow is the largest ID of a row of queues, 0 without one.
func (s *Store) LastBrokerRow(ctx context.Context) (uint64, error) {
	var id int64
	err := s.read.QueryRowContext(ctx, `SELECT COALESCE(MAX(id), 0) FROM broker_queue`).Scan(&id)
	return uint64(id), wrap("read MQTT messages", err)
}

// PutBrokerRetained stores the retained message of a topic, whose SHA-256 this is.
func (tx *Tx) PutBrokerRetained(ctx context.Context, topic [32]byte, body []byte) error {
	_, err := tx.Exec(ctx, `INSERT INTO broker_retained (topic, body) VALUES (?,?) ON CONFLICT (topic) DO UPDATE SET body = excluded.body`, topic[:], some(body))
	return wrap("store retained message", err)
}

// DeleteBrokerRetained deletes the retained message of a topic.
func (tx *Tx) DeleteBrokerRetained(ctx context.Context, topic [32]byte) error {
	_, err := tx.Exec(ctx, `DELETE FROM broker_retained WHERE topic = ?`, topic[:])
	return wrap("delete retained message", err)
}

// BrokerRetained calls yield for each retained message. body may be kept.
func (s *Store) BrokerRetained(ctx context.Context, yield func(body []byte) error) error {
	return s.each(ctx, "retained messages", `SELECT body FROM broker_retained`, func(rows *sql.Rows) error {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return err
		}
		return yield(body)
	})
}
