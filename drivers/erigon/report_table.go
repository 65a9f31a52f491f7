package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// table is the findings of one class in one group of a report.
type table struct {
	title, head string
	rows        []row
	room        int // bytes that its rows may take
}

// row is one line of a table, and how many findings it stands for.
type row struct {
	text  string
	files int
}

// restRoom is for the line that says what was left out.
const restRoom = 100

// runsOfRow is how many stretches of the chain one row lists; more go into the next one.
const runsOfRow = 60

func tables(found []change, byRange bool) (all []*table) {
	for _, g := range groups {
		of := slices.DeleteFunc(slices.Clone(found), func(c change) bool { return !g.holds(c.at.fileName) })
		if len(of) == 0 {
			continue
		}
		t := &table{title: fmt.Sprintf("\n#### %s\n\n", g.title)}
		if byRange {
			t.head, t.rows = "| Folder | Range | Types | What |\n|---|---|---|---|\n", rangeRows(of)
		} else {
			t.head, t.rows = "| Files | Ranges | Number | What | Allowed because |\n|---|---|---|---|---|\n", typeRows(of)
		}
		all = append(all, t)
	}
	return all
}

func (t *table) size() (n int) {
	for _, r := range t.rows {
		n += len(r.text)
	}
	return n
}

func (t *table) write(b *strings.Builder) {
	b.WriteString(t.title + t.head)
	room := t.room
	for i, r := range t.rows {
		if room -= len(r.text); room < 0 {
			files := 0
			for _, r := range t.rows[i:] {
				files += r.files
			}
			fmt.Fprintf(b, "\n… and %d rows more, of %d files; the findings hold them.\n", len(t.rows)-i, files)
			return
		}
		b.WriteString(r.text)
	}
}

// share gives tables their room: as much as they need, and where that is too much, as much to each. The second ones get what the first
// ones leave, and at least a fifth.
func share(first, second []*table, room int) {
	need := 0
	for _, t := range second {
		need += t.size()
	}
	left := divide(first, room-min(need, room/5))
	divide(second, left+min(need, room/5))
}

func divide(all []*table, room int) (left int) {
	bySize := slices.Clone(all)
	slices.SortStableFunc(bySize, func(a, b *table) int { return cmp.Compare(a.size(), b.size()) })
	for i, t := range bySize {
		t.room = max(min(t.size(), room/(len(bySize)-i)), 0)
		room -= t.room
	}
	return room
}

// typeRows has a row for all ranges of a type in one version with the same reason, the ones that refuse first. Every name is in one of
// them: its pattern says all but the range.
func typeRows(found []change) (rows []row) {
	type key struct{ pattern, why, reason string }
	var order []key
	by := map[key][]change{}
	for _, c := range found {
		k := key{c.at.pattern(), c.why, c.reason}
		if k.pattern == "" || k.why == "" {
			k = key{c.at.Name, c.detail, c.reason}
		}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], c)
	}
	slices.SortStableFunc(order, func(a, b key) int { return cmp.Compare(min(len(a.reason), 1), min(len(b.reason), 1)) })
	for _, k := range order {
		of := by[k]
		if len(of) == 1 {
			c := of[0]
			span := ""
			if c.at.Family != 0 && c.at.ranged() {
				span = c.at.span()
			}
			rows = append(rows, typeRow(c.at.Name, span, 1, c.brief(), k.reason))
			continue
		}
		why := k.why
		if slices.ContainsFunc(of, func(c change) bool { return c.last }) {
			why += "; the last range of its type is among them"
		}
		for _, r := range runsOf(of) {
			rows = append(rows, typeRow(k.pattern, r.text, r.files, why, k.reason))
		}
	}
	return rows
}

func typeRow(files, ranges string, n int, what, reason string) row {
	return row{fmt.Sprintf("| `%s` | %s | %d | %s | %s |\n", cell(files), ranges, n, cell(what), cell(reason)), n}
}

// brief is what one finding says in a row of its own.
func (c change) brief() string {
	const few = 12
	if c.class == classHash && len(c.was) > few && len(c.at.Sum) > few {
		return strings.NewReplacer(c.was, c.was[:few]+"…", c.at.Sum, c.at.Sum[:few]+"…").Replace(c.detail)
	}
	return c.detail
}

// pattern is a name with "*" for its range; "" if there is none.
func (f fileName) pattern() string {
	switch {
	case f.Family == 0 || !f.ranged():
		return ""
	case f.Family == familyState:
		return fmt.Sprintf("%s/%s-%s.*.%s", f.Dir, f.Ver, f.Type, f.Ext)
	case f.Dir == "":
		return fmt.Sprintf("%s-*-%s.%s", f.Ver, f.Type, f.Ext)
	}
	return fmt.Sprintf("%s/%s-*-%s.%s", f.Dir, f.Ver, f.Type, f.Ext)
}

// runsOf writes ranges of one type: those that join are one stretch.
func runsOf(found []change) (rows []row) {
	slices.SortFunc(found, func(a, b change) int { return byRange(a.at, b.at) })
	var b strings.Builder
	runs, files := 0, 0
	for i := 0; i < len(found); {
		from, to, n := found[i].at.From, found[i].at.To, 1
		for i+n < len(found) && found[i+n].at.From <= to {
			to = max(to, found[i+n].at.To)
			n++
		}
		i += n
		if runs > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%d-%d", from, to)
		if runs, files = runs+1, files+n; runs == runsOfRow || i == len(found) {
			rows = append(rows, row{b.String(), files})
			b.Reset()
			runs, files = 0, 0
		}
	}
	return rows
}

// rangeRows has a row for all types of the same folder, version, range and detail.
func rangeRows(found []change) (rows []row) {
	type key struct{ dir, span, detail string }
	types := map[key][]string{}
	var order []key
	for _, c := range found {
		k, what := key{c.at.Dir, c.at.Ver.String() + " " + c.at.span(), c.detail}, c.at.Type+"."+c.at.Ext
		if !c.at.ranged() || c.at.Family == 0 {
			k.dir, k.span, what = "", "", c.at.Name
		}
		if types[k] == nil {
			order = append(order, k)
		}
		types[k] = append(types[k], what)
	}
	for _, k := range order {
		n := len(types[k])
		slices.Sort(types[k])
		text := fmt.Sprintf("| %s | %s | %s | %s |\n", k.dir, cell(k.span), cell(strings.Join(slices.Compact(types[k]), ", ")), cell(k.detail))
		rows = append(rows, row{text, n})
	}
	return rows
}
