package demo

import (
	"fmt"
	"slices"
	"strings"

	"lighter/internal/version"
	"lighter/store"
	"lighter/store/derivation"
)

// bigParallel is the feature that the heaviest derivation requires; one machine of
// the demo has it.
const bigParallel = "big-parallel"

// graph is what the demo has built.
type graph struct {
	derivations map[store.Path]*derivation.Derivation
	// release is the derivation that depends on all others.
	release store.Path
}

// The builders are shell scripts and use what every Debian has. $src and $name
// are set by the derivation. All of them give the same bytes every time.
const (
	// archiveScript packs a package.
	archiveScript = `mkdir "$out" work
cp -r "$src" "work/$unit"
echo "packing $(ls "$src" | wc -l) files of $unit"
tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=u+w,a+rX -C work -cf - "$unit" | gzip -9n > "$out/$unit.tar.gz"
ls -l "$out/$unit.tar.gz" | awk '{ print $5 " bytes" }'
`
	// statisticsScript counts lines, code, comments, functions, types and tests.
	statisticsScript = `echo "counting in $unit"
cat "$src"/*.go | awk -v unit="$unit" -v files="$(ls "$src" | wc -l)" '
  /^[ \t]*$/             { blank++; next }
  /^[ \t]*\/\//          { comment++; next }
                         { code++ }
  /^func (\([^)]*\) )?Test/ { tests++ }
  /^func /               { functions++ }
  /^type /               { types++ }
  END { printf "%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\n", unit, files, NR, code, comment, functions, types, tests }
' > "$out"
cat "$out"
`
	// checksumsScript checks that every archive can be read, and sums them.
	checksumsScript = `mkdir "$out"
for archive in $archives; do
  for file in "$archive"/*.tar.gz; do
    tar -tzf "$file" > /dev/null
    ( cd "$archive" && sha256sum "${file##*/}" ) >> "$out/SHA256SUMS"
    echo "good: ${file##*/}"
  done
done
sort -k 2 -o "$out/SHA256SUMS" "$out/SHA256SUMS"
`
	// summaryScript joins the statistics and adds them up.
	summaryScript = `cat $statistics | sort > rows
{ printf 'package\tfiles\tlines\tcode\tcomments\tfunctions\ttypes\ttests\n'
  cat rows
  awk -F '\t' '{ for (i = 2; i <= NF; i++) sum[i] += $i } END { printf "total"; for (i = 2; i <= 8; i++) printf "\t%d", sum[i]; print "" }' rows
} > "$out"
tail -n 1 "$out"
`
	// wordsScript finds where each identifier of the whole tree is used. It is the
	// heaviest, and requires a feature that only one machine has.
	wordsScript = `mkdir words
n=0
for folder in $sources; do
  n=$((n + 1))
  find "$folder" -name '*.go' | sort | while read -r file; do
    sed -e 's/[^A-Za-z0-9_]/\n/g' "$file" | awk -v file="${folder#*-}/${file##*/}" 'length($0) > 3 && $0 ~ /^[A-Za-z_]/ { print $0 "\t" file }'
  done | sort > "words/$n" &
done
wait
sort -m words/* | uniq -c | awk '{ if ($2 != last) { if (last != "") print line; last = $2; line = $2; } line = line " " $3 "(" $1 ")" } END { print line }' > "$out"
echo "$(wc -l < "$out") identifiers"
`
	// pageScript writes an index page for people.
	pageScript = `{
  echo '<!doctype html><meta charset="utf-8"><title>lighter</title>'
  echo "<h1>lighter $version</h1><p>Packages, counted and packed by lighter itself.</p><table>"
  awk -F '\t' '{ printf "<tr>"; for (i = 1; i <= NF; i++) printf NR == 1 ? "<th>%s</th>" : "<td>%s</td>", $i; print "</tr>" }' "$summary"
  echo '</table><h2>Archives</h2><pre>'
  cat "$checksums/SHA256SUMS"
  echo '</pre><h2>Identifiers in most files</h2><pre>'
  awk '{ print NF - 1, $1 }' "$words" | sort -k1,1rn -k2 | sed 20q
  echo '</pre>'
} > "$out"
echo "$(wc -c < "$out") bytes"
`
	// releaseScript makes one tarball of everything.
	releaseScript = `mkdir -p "work/lighter-$version/archives"
for archive in $archives; do cp "$archive"/*.tar.gz "work/lighter-$version/archives/"; done
cp "$checksums/SHA256SUMS" "work/lighter-$version/archives/"
cp "$page" "work/lighter-$version/index.html"
cp "$summary" "work/lighter-$version/STATISTICS"
cp "$words" "work/lighter-$version/IDENTIFIERS"
( cd "work/lighter-$version/archives" && sha256sum --quiet -c SHA256SUMS )
mkdir "$out"
tar --sort=name --mtime=@1 --owner=0 --group=0 --numeric-owner --mode=u+w,a+rX -C work -cf - "lighter-$version" | gzip -9n > "$out/lighter-$version.tar.gz"
echo "packed $(find work -type f | wc -l) files"
`
)

// newGraph makes the derivations for units whose sources are in the store.
func newGraph(dir store.Dir, system string, units []unit, sources []store.Path) (*graph, error) {
	g := &graphMaker{
		dir:    dir,
		system: system,
		graph:  &graph{derivations: make(map[store.Path]*derivation.Derivation)},
	}
	g.hasher = derivation.NewHasher(dir, func(path store.Path) (*derivation.Derivation, error) {
		return nil, store.NotValid(path)
	})
	var archives, statistics []product
	for i, u := range units {
		src := sourceOf(sources[i])
		archives = append(archives, g.make("archive-"+u.name, archiveScript, vars{"unit": text(u.name), "src": src}))
		statistics = append(statistics, g.make("statistics-"+u.name, statisticsScript, vars{"unit": text(u.name), "src": src}))
	}
	var all value
	for _, s := range sources {
		all = append(all, sourceOf(s)...)
	}
	v := text(version.Version)
	checksums := g.make("checksums", checksumsScript, vars{"archives": list(archives)})
	summary := g.make("summary", summaryScript, vars{"statistics": list(statistics)})
	words := g.make("identifiers", wordsScript, vars{"sources": all, "requiredSystemFeatures": text(bigParallel)})
	page := g.make("index.html", pageScript, vars{
		"version": v, "summary": value{summary}, "checksums": value{checksums}, "words": value{words},
	})
	release := g.make("lighter-"+version.Version, releaseScript, vars{
		"version": v, "archives": list(archives), "checksums": value{checksums},
		"page": value{page}, "summary": value{summary}, "words": value{words},
	})
	g.graph.release = release.drv
	return g.graph, g.err
}

// product is what a variable may hold: text, a source, or an output.
type product struct {
	text string
	src  store.Path
	drv  store.Path
}

// value is a list of products, which a variable holds with blanks in between.
type value []product

type vars map[string]value

func text(s string) value            { return value{{text: s}} }
func sourceOf(path store.Path) value { return value{{text: string(path), src: path}} }
func list(products []product) value  { return value(products) }
func (v value) String() string       { return strings.Join(v.texts(), " ") }
func (v value) texts() (all []string) {
	for _, p := range v {
		all = append(all, p.text)
	}
	return all
}

// graphMaker makes derivations whose inputs it made before. Its first error stays.
type graphMaker struct {
	dir    store.Dir
	system string
	hasher *derivation.Hasher
	graph  *graph
	err    error
}

// make makes a derivation that runs a script with the variables set.
func (g *graphMaker) make(name, script string, variables vars) product {
	if g.err != nil {
		return product{}
	}
	d := &derivation.Derivation{
		Outputs: []derivation.Output{{Name: "out"}},
		System:  g.system,
		Builder: "/bin/sh",
		Args:    []string{"-euc", "export PATH=/usr/bin:/bin LC_ALL=C\n" + script},
		Env:     []derivation.EnvVar{{Name: "out"}, {Name: "name", Value: name}},
	}
	for key, v := range variables {
		d.Env = append(d.Env, derivation.EnvVar{Name: key, Value: v.String()})
		for _, p := range v {
			switch {
			case p.src != "":
				d.Sources = append(d.Sources, p.src)
			case p.drv != "":
				d.Inputs = append(d.Inputs, derivation.Input{Path: p.drv, Outputs: []string{"out"}})
			}
		}
	}
	slices.Sort(d.Sources)
	d.Sources = slices.Compact(d.Sources)
	slices.SortFunc(d.Env, func(a, b derivation.EnvVar) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(d.Inputs, func(a, b derivation.Input) int { return strings.Compare(string(a.Path), string(b.Path)) })
	path, err := g.complete(name, d)
	if err != nil {
		g.err = fmt.Errorf("derivation %s: %w", name, err)
		return product{}
	}
	return product{text: string(d.Outputs[0].Path), drv: path}
}

func (g *graphMaker) complete(name string, d *derivation.Derivation) (store.Path, error) {
	if err := g.hasher.Fill(name, d); err != nil {
		return "", err
	}
	path, err := d.Path(g.dir, name)
	if err != nil {
		return "", err
	}
	g.graph.derivations[path] = d
	return path, g.hasher.Add(path, d)
}
