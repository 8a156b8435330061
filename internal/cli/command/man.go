package command

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"lighter/internal/version"
)

// WriteManPages writes a page of manual section 1 for the command and each below it into a
// folder, which must be there: lighter.1, lighter-machines-check.1 and so on.
func (c *Command) WriteManPages(folder string) error {
	var b bytes.Buffer
	if err := c.writeMan(&b); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, c.manName()+".1"), b.Bytes(), 0o644); err != nil { //nolint:gosec // everyone may read it
		return err
	}
	for _, s := range c.Sub {
		if err := s.WriteManPages(folder); err != nil {
			return err
		}
	}
	return nil
}

// manName is the page's name: "lighter-machines-check".
func (c *Command) manName() string { return strings.ReplaceAll(c.path(), " ", "-") }

// writeMan writes the help page in the language of man(7): its headings become sections,
// its paragraphs are filled again, and the rest stays as it is.
func (c *Command) writeMan(w io.Writer) error {
	var page bytes.Buffer
	if err := c.WriteHelp(&page); err != nil {
		return err
	}
	_, text, _ := strings.Cut(page.String(), "\n\n")
	fmt.Fprintf(w, ".TH %s 1 \"\" \"lighter %s\" \"lighter\"\n.SH NAME\n%s \\- %s\n",
		strings.ToUpper(roff(c.manName())), roff(version.Version), roff(c.manName()), roff(c.Short))
	filled, pause := false, false
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		switch {
		case line == "" && filled:
			pause = true // a section's end is none
			continue
		case line != "" && line[0] != ' ':
			if !filled && line != "SYNOPSIS" {
				fmt.Fprintln(w, ".fi") // what stood before it
			}
			filled, pause = line == "DESCRIPTION", false
			line = ".SH " + roff(line)
			if !filled {
				line += "\n.nf"
			}
		default:
			line = roff(strings.TrimPrefix(line, "  "))
		}
		if pause {
			line, pause = ".PP\n"+line, false
		}
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return c.writeSeeAlso(w)
}

// writeSeeAlso names the page above and those below.
func (c *Command) writeSeeAlso(w io.Writer) error {
	var others []string
	if c.parent != nil {
		others = append(others, c.parent.manName())
	}
	for _, s := range c.Sub {
		others = append(others, s.manName())
	}
	for i, name := range others {
		others[i] = ".BR " + roff(name) + " (1)"
	}
	_, err := fmt.Fprintf(w, ".fi\n.SH SEE ALSO\n%s\n", strings.Join(others, "\n"))
	return err
}

// roff escapes a line of text for man(7).
func roff(line string) string {
	line = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(line)
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		line = `\&` + line
	}
	return line
}
