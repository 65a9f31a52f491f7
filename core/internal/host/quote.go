package host

import (
	"fmt"
	"strings"
)

// maxLine is the longest command line that is sent over ssh. Linux takes no argument over 128
// KiB, and sshd hands the line to the login shell as one argument.
const maxLine = 120 << 10

// quote makes one word of a POSIX shell of any string without NUL. Backslashes are
// left outside of the single quotes, where every shell reads them alike (fish does
// not inside).
func quote(word string) string {
	if word == "" {
		return "''"
	}
	if plain(word) {
		return word
	}
	var b strings.Builder
	open := false
	for i := 0; i < len(word); i++ {
		c := word[i]
		special := c == '\'' || c == '\\'
		if special == open { // a special byte ends the quotes, any other one begins them
			b.WriteByte('\'')
			open = !open
		}
		if special {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	if open {
		b.WriteByte('\'')
	}
	return b.String()
}

// plain tells whether a word means itself to every shell, wherever it stands in a command
// but at its beginning.
func plain(word string) bool {
	for i := 0; i < len(word); i++ {
		c := word[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case strings.IndexByte("/._-+:,@%", c) >= 0:
		default:
			return false
		}
	}
	return true
}

// shellLine is an argv as one line for a shell. It refuses what can't be said so.
func shellLine(argv []string) (string, error) {
	if len(argv) == 0 || argv[0] == "" {
		return "", fmt.Errorf("run a command: it has no words")
	}
	words := make([]string, len(argv))
	for i, w := range argv {
		if strings.IndexByte(w, 0) >= 0 {
			return "", fmt.Errorf("run %s: word %d holds a NUL byte", argv[0], i)
		}
		words[i] = quote(w)
	}
	line := strings.Join(words, " ")
	if len(line) > maxLine {
		return "", fmt.Errorf("run %s: its %d bytes of arguments are more than the %d that a command line over ssh may have", argv[0], len(line), maxLine)
	}
	return line, nil
}
