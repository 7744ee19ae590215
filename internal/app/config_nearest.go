package app

import "strings"

// Nearest gives the one of names that looks most like name: one that ends in the same
// word, else the one with the least changes of single letters (the first of several).
// It is empty when names is.
func Nearest(name string, names []string) string {
	best, least := "", 0
	last := name[strings.LastIndexByte(name, '.')+1:]
	for _, n := range names {
		d := editDistance(name, n)
		if strings.HasSuffix(n, "."+last) {
			d = min(d, 1)
		}
		if best == "" || d < least {
			best, least = n, d
		}
	}
	return best
}

// editDistance counts the letters to insert, remove or replace to make b of a.
func editDistance(a, b string) int {
	from, to := []rune(a), []rune(b)
	row := make([]int, len(to)+1)
	for j := range row {
		row[j] = j
	}
	for i, r := range from {
		diagonal := row[0]
		row[0] = i + 1
		for j, s := range to {
			cost := 1
			if r == s {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(to)]
}
