package app

import (
	"slices"
	"strings"
)

// Nearest gives the one of names that name was probably meant to be: the one with the
// least slips of single letters (the first of several), if they are few for the length of
// the word; else the only one that ends in the same word (max_frame is
// devices.max_frame). It is empty when none is near.
func Nearest(name string, names []string) string {
	best, least := "", 0
	for _, n := range names {
		if d := slips(name, n); near(name, n, d) && (best == "" || d < least) {
			best, least = n, d
		}
	}
	if best != "" {
		return best
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, n := range names {
		switch {
		case !strings.HasSuffix(n, "."+last):
		case best != "":
			return "" // several
		default:
			best = n
		}
	}
	return best
}

// near says whether d slips make other a plausible meaning of name: one slip, or in each
// word of both no more than a third of its letters, and three at most.
func near(name, other string, d int) bool {
	if d <= 1 {
		return d < len(name)
	}
	words, others := splitWords(name), splitWords(other)
	return len(words) == len(others) && !slices.ContainsFunc(words, func(w string) bool {
		allowed := min(max((len(w)+1)/3, 1), 3)
		for _, o := range others {
			if slips(w, o) <= allowed {
				return false
			}
		}
		return true
	})
}

func splitWords(name string) []string {
	return strings.FieldsFunc(name, func(r rune) bool { return r == '.' || r == '_' || r == '-' })
}

// slips counts the letters to insert, remove, replace or swap with the next one to make b
// of a (the optimal string alignment distance).
func slips(a, b string) int {
	from, to := []rune(a), []rune(b)
	before, row, next := make([]int, len(to)+1), make([]int, len(to)+1), make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i, r := range from {
		next[0] = i + 1
		for j, s := range to {
			cost := 1
			if r == s {
				cost = 0
			}
			next[j+1] = min(next[j]+1, row[j+1]+1, row[j]+cost)
			if i > 0 && j > 0 && r == to[j-1] && from[i-1] == s {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row, next = row, next, before
	}
	return row[len(to)]
}
