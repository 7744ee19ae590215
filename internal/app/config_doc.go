package app

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
)

// WriteDefaultConfig writes a YAML file with every key, its default and its meaning. Read
// back it gives DefaultConfig.
func WriteDefaultConfig(w io.Writer) error {
	var b bytes.Buffer
	c := DefaultConfig()
	b.WriteString("# Every setting of Signalbox with its default. Keep the lines you change, drop the rest.\n")
	previous := []string{}
	for _, s := range bySection() {
		words := strings.Split(s.key, ".")
		path := words[:len(words)-1]
		for depth := range path {
			if depth < len(previous) && previous[depth] == path[depth] {
				continue
			}
			previous = previous[:depth]
			indent := strings.Repeat("  ", depth)
			if about := sections()[strings.Join(path[:depth+1], ".")]; about != "" {
				fmt.Fprintf(&b, "\n%s# %s", indent, about)
			}
			fmt.Fprintf(&b, "\n%s%s:\n", indent, path[depth])
			previous = append(previous, path[depth])
		}
		previous = previous[:len(path)]
		indent := strings.Repeat("  ", len(path))
		for _, line := range wrap(s.doc+" Allowed: "+s.allowed+".", 96-len(indent)) {
			fmt.Fprintf(&b, "%s# %s\n", indent, line)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, words[len(words)-1], s.get(&c))
	}
	_, err := w.Write(b.Bytes())
	return err
}

// bySection gives all settings with those of one section in a row, the sections in the
// order in which they come up first.
func bySection() []setting {
	all := settings()
	var order []string
	for _, s := range all {
		if !slices.Contains(order, s.section()) {
			order = append(order, s.section())
		}
	}
	slices.SortStableFunc(all, func(a, b setting) int {
		return slices.Index(order, a.section()) - slices.Index(order, b.section())
	})
	return all
}

// section is the setting's key without its last word.
func (s setting) section() string { return s.key[:max(strings.LastIndexByte(s.key, '.'), 0)] }

// WriteConfigReference writes the reference of all settings as Markdown.
func WriteConfigReference(w io.Writer) error {
	var b bytes.Buffer
	c := DefaultConfig()
	b.WriteString(`# Configuration

Signalbox needs none: every setting has a default. A setting is looked for in these places, and the later one wins:

1. the defaults below,
2. a YAML file: the one named by ` + "`--config`" + ` or ` + "`SIGNALBOX_CONFIG`" + `, otherwise ` + "`" + ConfigName + "`" + ` in the data directory if it exists,
3. environment variables; one with an empty value counts as not set,
4. flags of ` + "`signalbox serve`" + `: ` + "`--data`, `--store`, `--http`, `--devices`, `--mqtt`, `--history`, `--log-level`, `--log-format`" + `, and ` + "`--set KEY=VALUE`" + ` for every other key.

In YAML the dots are nesting: ` + "`http.listen`" + ` is the key ` + "`listen`" + ` in the section ` + "`http`" + `. A key or variable that is not known is an
error that names the nearest one, if one looks like it. Sizes are written as ` + "`512KiB`, `64MiB`" + ` (1024) or ` + "`64MB`" + ` (1000), durations as ` + "`500ms`, `10s`, `5m`,\n`12h`, `30d`" + `.
Variables and flags take a list as one text with commas: ` + "`--set 'history.keep=90d,type:station 30d'`" + `.

` + "```sh" + `
signalbox config default > signalbox.yaml   # every key with its default, to edit
signalbox config check signalbox.yaml       # what is wrong with it, or what it changes
signalbox config doc                        # this page
` + "```" + `

## Settings
`)
	section := "-"
	for _, s := range bySection() {
		if s.section() != section {
			section = s.section()
			title := section
			if title == "" {
				title = "In general"
			}
			fmt.Fprintf(&b, "\n### %s\n\n", title)
			if about := sections()[section]; about != "" {
				fmt.Fprintf(&b, "%s\n\n", about)
			}
			b.WriteString("| key | default | meaning |\n| --- | --- | --- |\n")
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s Allowed: %s. |\n", s.key, s.get(&c), cell(s.doc), cell(s.allowed))
	}
	b.WriteString("\n## Environment variables\n\n| variable | meaning |\n| --- | --- |\n")
	for _, v := range Variables() {
		meaning := v.Meaning
		if v.Key != "" {
			meaning = "Sets `" + v.Key + "`."
		}
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.Name, cell(meaning))
	}
	b.WriteString("\nThe variables that Kubernetes makes for a service called `signalbox` (`SIGNALBOX_SERVICE_HOST`, `SIGNALBOX_PORT_…`) are passed over.\n")
	_, err := w.Write(b.Bytes())
	return err
}

// Changed gives each key whose value in c is not the default, as «key: value».
func (c *Config) Changed() []string {
	var lines []string
	standard := DefaultConfig()
	for _, s := range settings() {
		if value := s.get(c); value != s.get(&standard) {
			lines = append(lines, s.key+": "+value)
		}
	}
	return lines
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// wrap breaks text into lines of at most width bytes where words allow it.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for w := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(w) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += w
	}
	return append(lines, line)
}
