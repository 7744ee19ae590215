package conformance_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"signalbox/internal/wire/packet"
)

// TestDocument compares docs/mqtt-conformance.md with the lists of the standards' statements
// and with the checks.
func TestDocument(t *testing.T) {
	body, err := os.ReadFile(filepath.Join("..", "..", "docs", "mqtt-conformance.md"))
	if err != nil {
		t.Fatal(err)
	}
	tests := topLevelTests(t)
	for _, v := range versions {
		t.Run(v.name, func(t *testing.T) {
			_, rest, ok := strings.Cut(string(body), "\n## MQTT "+v.name+"\n")
			if !ok {
				t.Fatal("the document has no such part")
			}
			part, _, _ := strings.Cut(rest, "\n## ")
			held := map[string][]string{} // checks by number
			for _, c := range checks() {
				for _, n := range c.numbers(v.version) {
					held[n] = append(held[n], c.name)
				}
			}
			rows := documentRows(t, part)
			var numbers []string
			for _, row := range rows {
				numbers = append(numbers, row.number)
				if len(row.names) == 0 && len(row.reason) < 8 {
					t.Errorf("%s has neither a test nor a reason", row.number)
				}
				for _, name := range row.names {
					if !slices.Contains(held[row.number], name) && !slices.Contains(tests, name) {
						t.Errorf("%s names the test %q, which does not hold it", row.number, name)
					}
				}
				for _, name := range held[row.number] {
					if !slices.Contains(row.names, name) {
						t.Errorf("%s does not name the check %q, which holds it", row.number, name)
					}
				}
				delete(held, row.number)
			}
			if want := statements(t, v.name); !slices.Equal(numbers, want) {
				t.Errorf("the document has %d statements, the standard %d, in this order; the first that differs is the %dth",
					len(numbers), len(want), firstDifference(numbers, want))
			}
			for n, names := range held {
				t.Errorf("the checks %q hold %s, which the document does not have", names, n)
			}
		})
	}
}

type documentRow struct {
	number, reason string
	names          []string
}

var quoted = regexp.MustCompile("`([^`]+)`")

func documentRows(t *testing.T, part string) []documentRow {
	t.Helper()
	var rows []documentRow
	for line := range strings.Lines(part) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		number, ok := strings.CutPrefix(strings.TrimSpace(cells[0]), "MQTT-")
		if !ok {
			continue
		}
		if len(cells) != 3 || strings.TrimSpace(cells[1]) == "" {
			t.Errorf("a row has not three cells: %s", line)
			continue
		}
		row := documentRow{number: number}
		for _, m := range quoted.FindAllStringSubmatch(cells[2], -1) {
			row.names = append(row.names, m[1])
		}
		if len(row.names) == 0 {
			row.reason = strings.TrimSpace(cells[2])
		}
		rows = append(rows, row)
	}
	return rows
}

// statements are the numbers of a standard's appendix B, in its order.
func statements(t *testing.T, version string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "statements-"+version+".txt"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

func firstDifference(a, b []string) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i + 1
		}
	}
	return min(len(a), len(b)) + 1
}

// topLevelTests are the test functions of this package.
func topLevelTests(t *testing.T) []string {
	t.Helper()
	files, err := fs.Glob(os.DirFS("."), "*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names
}

// TestCheckNames says that a check can be found by its name.
func TestCheckNames(t *testing.T) {
	for _, v := range versions {
		seen := map[string]bool{}
		for _, c := range checks() {
			name := strings.Join(c.numbers(v.version), " ") + "/" + c.name
			if seen[name] {
				t.Errorf("two checks are %q", name)
			}
			seen[name] = true
			if v.version == packet.V5 && c.v311 == "" && c.v5 == "" {
				t.Errorf("check %q holds nothing", c.name)
			}
		}
	}
}
