package plain

import (
	"context"
	"fmt"
	"strings"
	"time"

	"signalbox/internal/store"
)

// maria is the table in MariaDB, whose partitions follow each other without a gap:
//
//	p_old    what is before Table.floor
//	p_gap    from there to the first day; only if there is something between
//	p20260301 … a day each
//	p_later  what is behind the last day
//
// A day before the first is split off from p_gap, one behind the last from p_later. Both are
// empty, save for what came when they could not be split, so that it costs nothing.
type maria struct {
	t         *Table
	low, high day
	gap       day             // where p_gap ends
	have      map[string]bool // the names of the partitions when they were last looked at, and p_gap
	again     time.Time       // before then it is not tried
}

const (
	mariaOld   = "p_old"
	mariaGap   = "p_gap"
	mariaLater = "p_later"
	// mariaDay is how a border is spelled.
	mariaDay = "'2006-01-02 00:00:00'"
	// mariaAhead is how far behind the last day another may be: there can be 8,192 partitions.
	// What comes from further on, by a clock that is wrong, stays in p_later.
	mariaAhead = 3660
	// mariaPause is how long no partition is made after that was not possible.
	mariaPause = time.Minute
)

func (m *maria) split() bool           { return true }
func (m *maria) time(ts string) string { return ts }
func (m *maria) name(d day) string     { return "p" + d.format(packed) }

func (m *maria) tables() string {
	return `SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?`
}

// part defines a partition that ends before a day.
func (m *maria) part(name string, end day) string {
	return "PARTITION " + name + " VALUES LESS THAN (" + end.format(mariaDay) + ")"
}

// parts defines the days from low to high, and before them p_gap if that has room.
func (m *maria) parts(gap bool, low, high day) (all []string) {
	if gap && low > m.t.floor {
		all = append(all, m.part(mariaGap, low))
	}
	for d := low; d <= high; d++ {
		all = append(all, m.part(m.name(d), d+1))
	}
	return all
}

const mariaEnd = "PARTITION " + mariaLater + " VALUES LESS THAN (MAXVALUE)"

func (m *maria) create(ctx context.Context, today day) error {
	all := append([]string{m.part(mariaOld, m.t.floor)}, m.parts(true, today-1, today+aheadDays)...)
	return m.t.side.Define(ctx, `CREATE TABLE `+store.PlainTable+` (
  device  BIGINT NOT NULL,      -- device.id
  ts      DATETIME(6) NOT NULL, -- UTC
  seq     BIGINT NOT NULL,      -- position in the log
  payload LONGTEXT CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL, -- what the device sent
  PRIMARY KEY (device, ts, seq)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_nopad_bin
PARTITION BY RANGE COLUMNS (ts) (`+strings.Join(append(all, mariaEnd), ", ")+`)`)
}

func (m *maria) load(ctx context.Context) error {
	rows, err := m.t.st.Reader().QueryContext(ctx, `SELECT PARTITION_NAME, COALESCE(PARTITION_DESCRIPTION, '') FROM information_schema.PARTITIONS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND PARTITION_NAME IS NOT NULL`, store.PlainTable)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // rows.Err tells of faults
	found := false
	m.have = map[string]bool{}
	for rows.Next() {
		var name, end string
		if err := rows.Scan(&name, &end); err != nil {
			return err
		}
		m.have[name] = true
		if name == mariaGap {
			at, err := time.Parse(mariaDay, end)
			if err != nil {
				return fmt.Errorf("the partition %s ends at %s, which is no day: %w", name, end, err)
			}
			m.gap = dayAt(at)
		}
		at, err := time.Parse("p"+packed, name)
		if err != nil {
			continue
		}
		if d := dayAt(at); !found {
			m.low, m.high, found = d, d, true
		} else {
			m.low, m.high = min(m.low, d), max(m.high, d)
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("the table %s has no partition of a day", store.PlainTable)
	}
	return nil
}

// ready does not fail where no partition can be made: rows have their place in any case.
func (m *maria) ready(ctx context.Context, days map[day]bool) error {
	low, high := m.low, m.high
	for d := range days {
		if d >= m.t.floor && d < low {
			low = d
		}
		if d > high && d <= m.high+mariaAhead {
			high = d
		}
	}
	if low == m.low && high == m.high || time.Now().Before(m.again) {
		return nil
	}
	if err := m.extend(ctx, low, high); err != nil && ctx.Err() == nil {
		m.again = time.Now().Add(mariaPause)
		m.t.cfg.Logger.Warn("partitions of the plain table could not be made; rows go into others meanwhile", "err", err)
		return m.load(ctx) // it may be because somebody dropped some
	}
	return nil
}

// extend makes the days from low to high, of which there are m.low to m.high.
func (m *maria) extend(ctx context.Context, low, high day) error {
	for m.high < high {
		to := min(high, m.high+onceDays)
		if err := m.reorganize(ctx, mariaLater, append(m.parts(false, m.high+1, to), mariaEnd)); err != nil {
			return err
		}
		m.high = to
	}
	for m.low > low {
		from := max(low, m.low-onceDays)
		var names []string
		if m.have[mariaGap] {
			names = append(names, mariaGap)
		}
		last := m.low - 1
		if len(names) == 0 || m.gap != m.low { // somebody dropped what lay between: the first day has it
			names, last = append(names, m.name(m.low)), m.low
		}
		if err := m.reorganize(ctx, strings.Join(names, ", "), m.parts(true, from, last)); err != nil {
			return err
		}
		m.have[mariaGap], m.gap = from > m.t.floor, from
		m.low = from
	}
	return nil
}

func (m *maria) reorganize(ctx context.Context, parts string, into []string) error {
	return m.t.side.Define(ctx, `ALTER TABLE `+store.PlainTable+` REORGANIZE PARTITION `+parts+` INTO (`+strings.Join(into, ", ")+`)`)
}

// drop empties the partitions and makes them one, so that what comes late has its place again.
func (m *maria) drop(ctx context.Context, before day) (dropped int, err error) {
	if before > m.high {
		return 0, nil // there are days to come, soon
	}
	empty := func(names ...string) error {
		return m.t.side.Define(ctx, `ALTER TABLE `+store.PlainTable+` TRUNCATE PARTITION `+strings.Join(names, ", "))
	}
	if before >= m.t.floor && m.have[mariaOld] {
		if some, err := m.t.some(ctx, store.PlainTable+" PARTITION ("+mariaOld+")"); err != nil {
			return 0, err
		} else if some {
			if err := empty(mariaOld); err != nil {
				return 0, err
			}
			dropped++
		}
	}
	if m.have[mariaGap] && m.gap <= before && m.low >= before { // else it goes with the days behind it
		if some, err := m.t.some(ctx, store.PlainTable+" PARTITION ("+mariaGap+")"); err != nil {
			return dropped, err
		} else if some {
			if err := empty(mariaGap); err != nil {
				return dropped, err
			}
			dropped++
		}
	}
	var days []day // those there are; somebody may have dropped others
	for d := m.low; d <= m.high; d++ {
		if m.have[m.name(d)] {
			days = append(days, d)
		}
	}
	for days[0] < before {
		n := 1
		for n < onceDays && days[n] < before { // m.high is not
			n++
		}
		var names []string
		if m.have[mariaGap] {
			names = append(names, mariaGap)
		}
		for _, d := range days[:n] {
			names = append(names, m.name(d))
		}
		end := days[n-1] + 1
		if err := empty(names...); err != nil {
			return dropped, err
		}
		if err := m.reorganize(ctx, strings.Join(names, ", "), []string{m.part(mariaGap, end)}); err != nil {
			return dropped, err
		}
		dropped += n
		days = days[n:]
		m.have[mariaGap], m.gap, m.low = true, end, days[0]
	}
	return dropped, nil
}
