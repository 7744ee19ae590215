package bench

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a measurement found.
type Report struct {
	Mode    string    `json:"mode"`
	Summary string    `json:"summary"`
	Started time.Time `json:"started"`
	Machine Machine   `json:"machine"`
	Runs    int       `json:"runs"`
	Rows    []Row     `json:"rows"`
	// Goals are the limits this project has set itself, and whether they were kept.
	Goals []Goal   `json:"goals,omitempty"`
	Notes []string `json:"notes,omitempty"`
}

// Machine is where it was measured.
type Machine struct {
	CPU       string `json:"cpu"`
	Cores     int    `json:"cores"`
	Go        string `json:"go"`
	Kernel    string `json:"kernel"`
	OpenFiles uint64 `json:"open_files"` // per process, hard limit
	MemoryMiB uint64 `json:"memory_mib"`
}

// Row is one thing measured; its values are medians over the runs.
type Row struct {
	Name   string  `json:"name"`
	Values []Value `json:"values"`
}

// Value is one number with its unit, such as «msg/s», «ms», «B», «s/1M».
type Value struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit,omitempty"`
	Value float64 `json:"value"`
}

// Goal is a limit and what was measured against it.
type Goal struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Limit float64 `json:"limit"`
	// AtLeast says that more is better.
	AtLeast bool   `json:"at_least,omitempty"`
	Unit    string `json:"unit,omitempty"`
	Met     bool   `json:"met"`
}

// goal notes a limit and whether value keeps it.
func (r *Report) goal(name string, value, limit float64, atLeast bool, unit string) {
	met := value <= limit
	if atLeast {
		met = value >= limit
	}
	r.Goals = append(r.Goals, Goal{Name: name, Value: value, Limit: limit, AtLeast: atLeast, Unit: unit, Met: met})
}

func (r *Report) note(format string, args ...any) {
	if n := fmt.Sprintf(format, args...); !slices.Contains(r.Notes, n) {
		r.Notes = append(r.Notes, n)
	}
}

// add appends a row with the medians of several runs' values, which are in the same order each.
func (r *Report) add(name string, runs ...[]Value) {
	if len(runs) == 0 {
		return
	}
	row := Row{Name: name}
	for i, v := range runs[0] {
		all := make([]float64, 0, len(runs))
		for _, run := range runs {
			all = append(all, run[i].Value)
		}
		v.Value = median(all)
		row.Values = append(row.Values, v)
	}
	r.Rows = append(r.Rows, row)
}

// get finds a value by row and name, 0 if it is not there.
func (r *Report) get(row, name string) float64 {
	for _, have := range r.Rows {
		if have.Name != row {
			continue
		}
		for _, v := range have.Values {
			if v.Name == name {
				return v.Value
			}
		}
	}
	return 0
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// WriteText prints the report for people.
func (r *Report) WriteText(w io.Writer) error {
	m := r.Machine
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", r.Mode, r.Summary)
	fmt.Fprintf(&b, "%s, %d cores, %d MiB, %s, Linux %s, %d open files a process; medians of %d runs; %s\n\n",
		m.CPU, m.Cores, m.MemoryMiB, m.Go, m.Kernel, m.OpenFiles, r.Runs, r.Started.Format(time.RFC3339))
	if err := r.writeRows(&b); err != nil {
		return err
	}
	for i, g := range r.Goals {
		if i == 0 {
			fmt.Fprintln(&b)
		}
		word, bound := "kept  ", "at most"
		if !g.Met {
			word = "MISSED"
		}
		if g.AtLeast {
			bound = "at least"
		}
		fmt.Fprintf(&b, "%s  %s: %s %s (%s %s)\n", word, g.Name, format(g.Value), g.Unit, bound, format(g.Limit))
	}
	for i, n := range r.Notes {
		if i == 0 {
			fmt.Fprintln(&b)
		}
		fmt.Fprintln(&b, n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeRows prints the rows as tables: a new one where the columns change.
func (r *Report) writeRows(w io.Writer) error {
	var b strings.Builder
	var columns []string
	for _, row := range r.Rows {
		if names := row.columns(); !slices.Equal(names, columns) {
			if columns != nil {
				b.WriteByte('\n')
			}
			columns = names
			b.WriteString("\t" + strings.Join(columns, "\t") + "\t\n")
		}
		b.WriteString(row.Name)
		for _, v := range row.Values {
			b.WriteString("\t" + format(v.Value))
		}
		b.WriteString("\t\n")
	}
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	if _, err := io.WriteString(tw, b.String()); err != nil {
		return err
	}
	return tw.Flush()
}

func (r *Row) columns() []string {
	names := make([]string, 0, len(r.Values))
	for _, v := range r.Values {
		if v.Unit != "" {
			names = append(names, v.Name+" "+v.Unit)
			continue
		}
		names = append(names, v.Name)
	}
	return names
}

// format gives three or four digits that matter, with thousands apart.
func format(v float64) string {
	switch {
	case v < 0:
		return "-" + format(-v)
	case v < 10:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 2, 64), ".00")
	case v < 1000:
		return strings.TrimSuffix(strconv.FormatFloat(v, 'f', 1, 64), ".0")
	}
	s := strconv.FormatFloat(v, 'f', 0, 64)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
