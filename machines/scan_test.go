package machines

import (
	"fmt"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"github.com/google/go-cmp/cmp"
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
	second := root.at("machine").elem(1)
	tests := []struct {
		name   string
		offset int
		want   string // what stands there
	}{
		{"quoted dotted key", root.at("top").at("level").value, `'a # b'`},
		{"element after a comment", root.at("list").elem(1).value, `"two]"`},
		{"string of several lines", root.at("list").elem(2).value, `"""three`},
		{"element after one", root.at("list").elem(3).value, `'''four'''`},
		{"nested list", root.at("list").elem(4).elem(1).elem(0).value, `6]`},
		{"inline table", root.at("inline").at("b").at("c").value, `"}"`},
		{"table in a list in an inline table", root.at("inline").at("d").elem(1).at("e").value, `2 }`},
		{"quotes before the end", root.at("text").value, `""" \"""`},
		{"after them", root.at("literal").key, `literal`},
		{"key of the first machine", root.at("machine").elem(0).at("quoted key").key, `"quoted key" = 1`},
		{"literal key", root.at("machine").elem(0).at(`literal \key`).value, "2\n"},
		{"table of the first machine", root.at("machine").elem(0).at("sub").key, "[machine.sub]"},
		{"list below it", root.at("machine").elem(0).at("subs").elem(1).at("y").value, "2\n"},
		{"second machine", second.key, "[[ machine ]]"},
		{"its name", second.at("name").value, `"two"`},
		{"dotted key in it", second.at("sub").at("z").at("w").value, "4\n"},
		{"absent key: the table's", second.at("nothing").key, "[[ machine ]]"},
		{"the last value", root.at("other").at("table").at("v").value, "true"},
	}
	for _, tt := range tests {
		if !strings.HasPrefix(everything[tt.offset:], tt.want) {
			line, column, text := (&reporter{doc: everything}).position(tt.offset)
			t.Errorf("%s: got %d:%d %q, want %q", tt.name, line, column, text, tt.want)
		}
	}
}

// lost lists the values of a document that have no position of their own.
func lost(v any, at *node, path string) []string {
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

func lostElem(v any, i, n int, at *node, path string) []string {
	name := fmt.Sprintf("%s[%d]", path, i)
	if len(at.elems) != n {
		return []string{name}
	}
	return lost(v, at.elems[i], name)
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
		if _, err := ParseTOML(name, []byte(doc)); err == nil || !strings.Contains(err.Error(), "in each other") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzParseTOML(f *testing.F) {
	f.Add([]byte(everything))
	for _, file := range []string{"testdata/good.txtar", "testdata/bad.txtar"} {
		for _, data := range tomlFiles(f, file) {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := ParseTOML("fuzz.toml", data)
		if err != nil {
			if errs, ok := err.(Errors); !ok || len(errs) == 0 { //nolint:errorlint // must be just that
				t.Fatalf("unexpected error %#v", err)
			}
			if err.Error() == "" {
				t.Fatal("error without a text")
			}
			return
		}
		text := FormatTOML(all)
		again, err := ParseTOML("formatted.toml", text)
		if err != nil {
			t.Fatalf("formatted:\n%s\n%v", text, err)
		}
		if diff := cmp.Diff(all, again); diff != "" {
			t.Fatalf("formatted and read again (-want +got):\n%s", diff)
		}
	})
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
