#!/bin/sh
# The users' file for Redis: the rules $1, with the SHA-256 of each user's password (a file of its name in
# folder $2) for its @NAME@. Comments go, and lines that end in a backslash are joined, for Redis has neither.
set -eu
rules=$(grep -v '^#' "$1" | sed -e ':a' -e '/\\$/N' -e 's/ *\\\n */ /' -e 'ta')
for file in "$2"/*; do
  name=$(basename "$file")
  digest=$(printf %s "$(cat "$file")" | sha256sum | cut -d ' ' -f 1)
  rules=$(printf '%s\n' "$rules" | sed "s/@$name@/#$digest/")
done
if printf '%s\n' "$rules" | grep '@[a-z]*@$' | cut -d ' ' -f 2 | grep .; then
  echo "no password for the users above in $2" >&2
  exit 1
fi
printf '%s\n' "$rules"
