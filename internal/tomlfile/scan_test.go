package tomlfile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// everything has every kind of key, header, string and list that TOML knows.
const everything = `# comment with [[machine]] and "quotes"
top . "le\u0076el" = 'a # b'
list = [ 1, # [
  "two]", """three
"]""", '''four''' , [ 5, [6] ], ]
inline = { a = 1, b.c = "}", d = [{ e = 1 }, { e = 2 }] }
date = 1979-05-27 07:32:00Z # date
empty-list = []
text = """ \""" """"
literal = '''don't'''''
[[machine]]
name = "one"
"quoted key" = 1
'literal \key' = 2
[machine.sub]
x = 1
[[machine.subs]]
y = 1
[[machine.subs]]
y = 2
[[ machine ]]
name = "two"
sub.x = 3
sub.z.w = 4
[ other . table ]
v = true`

func TestLocateFindsEveryValue(t *testing.T) {
	var document map[string]any
	if _, err := toml.Decode(everything, &document); err != nil {
		t.Fatal(err)
	}
	root := locate(everything).root
	if missing := lost(document, root, ""); len(missing) > 0 {
		t.Errorf("without position: %q", missing)
	}
}

func TestLocatePositions(t *testing.T) {
	root := locate(everything).root
	second := root.At("machine").Elem(1)
	tests := []struct {
		name   string
		offset int
		want   string // what stands there
	}{
		{"quoted dotted key", root.At("top").At("level").Value, `'a # b'`},
		{"element after a comment", root.At("list").Elem(1).Value, `"two]"`},
		{"string of several lines", root.At("list").Elem(2).Value, `"""three`},
		{"element after one", root.At("list").Elem(3).Value, `'''four'''`},
		{"nested list", root.At("list").Elem(4).Elem(1).Elem(0).Value, `6]`},
		{"inline table", root.At("inline").At("b").At("c").Value, `"}"`},
		{"table in a list in an inline table", root.At("inline").At("d").Elem(1).At("e").Value, `2 }`},
		{"quotes before the end", root.At("text").Value, `""" \"""`},
		{"after them", root.At("literal").Key, `literal`},
		{"key of the first machine", root.At("machine").Elem(0).At("quoted key").Key, `"quoted key" = 1`},
		{"literal key", root.At("machine").Elem(0).At(`literal \key`).Value, "2\n"},
		{"table of the first machine", root.At("machine").Elem(0).At("sub").Key, "[machine.sub]"},
		{"list below it", root.At("machine").Elem(0).At("subs").Elem(1).At("y").Value, "2\n"},
		{"second machine", second.Key, "[[ machine ]]"},
		{"its name", second.At("name").Value, `"two"`},
		{"dotted key in it", second.At("sub").At("z").At("w").Value, "4\n"},
		{"absent key: the table's", second.At("nothing").Key, "[[ machine ]]"},
		{"the last value", root.At("other").At("table").At("v").Value, "true"},
	}
	for _, tt := range tests {
		if !strings.HasPrefix(everything[tt.offset:], tt.want) {
			line, column, text := (&Reporter{Doc: everything}).Position(tt.offset)
			t.Errorf("%s: got %d:%d %q, want %q", tt.name, line, column, text, tt.want)
		}
	}
}

// lost lists the values of a document that have no position of their own.
func lost(v any, at *Place, path string) []string {
	var missing []string
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			name := path + "." + key
			if at.table[key] == nil {
				missing = append(missing, name)
				continue
			}
			missing = append(missing, lost(value, at.table[key], name)...)
		}
	case []map[string]any:
		for i, value := range v {
			missing = append(missing, lostElem(value, i, len(v), at, path)...)
		}
	case []any:
		for i, value := range v {
			missing = append(missing, lostElem(value, i, len(v), at, path)...)
		}
	}
	return missing
}

func lostElem(v any, i, n int, at *Place, path string) []string {
	name := fmt.Sprintf("%s[%d]", path, i)
	if len(at.Elems) != n {
		return []string{name}
	}
	return lost(v, at.Elems[i], name)
}

func TestDeepNestingIsRefused(t *testing.T) {
	const n = 100000
	for name, doc := range map[string]string{
		"keys":     strings.Repeat("a.", n) + "a = 1",
		"header":   "[" + strings.Repeat("a.", n) + "a]",
		"brackets": "a = " + strings.Repeat("[", n) + strings.Repeat("]", n),
		"braces":   strings.Repeat("a = {", n) + strings.Repeat("}", n),
		"both":     strings.Repeat("a.b.c = [{", n),
	} {
		d := NewDecoder(name, []byte(doc))
		if _, _, ok := d.Parse(); ok || d.Err() == nil || !strings.Contains(d.Err().Error(), "nested more than") {
			t.Errorf("%s: got %v", name, d.Err())
		}
	}
}

// FuzzLocate checks that every value that the TOML library finds is located.
func FuzzLocate(f *testing.F) {
	f.Add(everything)
	f.Fuzz(func(t *testing.T, doc string) {
		at := locate(doc) // must end and not panic, whatever the text
		if at.tooDeep >= 0 || at.twice >= 0 {
			return
		}
		var document map[string]any
		if _, err := toml.Decode(doc, &document); err != nil || strings.HasPrefix(doc, "\xff\xfe") ||
			strings.HasPrefix(doc, "\xfe\xff") || strings.HasPrefix(doc, "\ufeff") {
			return
		}
		if missing := lost(document, at.root, ""); len(missing) > 0 {
			t.Errorf("without position: %q", missing)
		}
	})
}
