package bench

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// historySizes are what a measurement of history takes.
type historySizes struct {
	devices     []int
	intake      int // messages, at least perDevice for each device
	perDevice   int
	intakeLimit time.Duration
	rows        []int // devices of the row-per-message table
	rowMessages int
	rowLimit    time.Duration
	pastDevices int
	messages    int // of the past
	fillLimit   time.Duration
	asked       time.Duration // for each question, warm and cold
}

// chooseSizes takes the full ones, or those of Options.Quick.
func (b *bencher) chooseSizes() *historySizes {
	if b.sizes != nil {
		return b.sizes
	}
	s := historySizes{
		devices: []int{100, 1000, 10_000, 100_000}, intake: 10_000_000, perDevice: 200, intakeLimit: time.Minute,
		rows: []int{1000, 10_000}, rowMessages: 10_200_000, rowLimit: 2 * time.Minute,
		pastDevices: 1000, messages: 10_000_000, fillLimit: 5 * time.Minute, asked: 3 * time.Second,
	}
	if b.Quick {
		s.devices, s.intake, s.perDevice, s.intakeLimit = []int{1000, 100_000}, 2_500_000, 0, 6*time.Second
		s.rows, s.rowMessages, s.rowLimit = []int{1000}, 100_000, 3*time.Second
		s.messages, s.fillLimit, s.asked = 1_500_000, time.Minute, 200*time.Millisecond
	}
	if b.Messages > 0 {
		s.messages = b.Messages
		s.fillLimit = max(s.fillLimit, time.Duration(b.Messages)*20*time.Microsecond)
	}
	return &s
}

// databaseKind names the database of a store's URL.
func databaseKind(url string) string {
	switch {
	case strings.HasPrefix(url, "postgres"):
		return "PostgreSQL"
	case url != "":
		return "MariaDB"
	}
	return "SQLite"
}

// getUnit is get where several values of a row have one name.
func (r *Report) getUnit(row, name, unit string) float64 {
	for _, have := range r.Rows {
		for _, v := range have.Values {
			if have.Name == row && v.Name == name && v.Unit == unit {
				return v.Value
			}
		}
	}
	return 0
}

// sortGoals brings the goals into the order of their rows.
func (r *Report) sortGoals() {
	place := func(g *Goal) int {
		return slices.IndexFunc(r.Rows, func(row Row) bool { return strings.HasPrefix(g.Name, row.Name+":") })
	}
	slices.SortStableFunc(r.Goals, func(a, b Goal) int {
		return cmp.Or(cmp.Compare(place(&a), place(&b)), cmp.Compare(a.Name, b.Name))
	})
}
