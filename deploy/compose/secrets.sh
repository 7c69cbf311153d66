#!/bin/sh
# Makes the secrets of compose.yaml, once, and prints the API key of the tenant "operator", an administrator.
#
#   ./secrets.sh [FOLDER]        default: secrets/ beside this file
#
# The folder is closed to others; the files in it are not, since each container reads its own as another user.
set -eu
folder=${1:-$(dirname "$0")/secrets}
if [ -e "$folder" ]; then
    echo "$folder is there already: remove it to make new secrets" >&2
    exit 1
fi
random() { od -An -v -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

mkdir -m 0700 "$folder"
rules=$(dirname "$0")/../kubernetes/base/redis
mkdir "$folder/passwords"
for user in frontend worker autoscaler; do  # Nobody gets to know the last: there is no autoscaler here.
    random 32 > "$folder/passwords/$user"
done
sh "$rules/render-users.sh" "$rules/users.acl" "$folder/passwords" > "$folder/redis_users.conf"
for user in frontend worker; do
    printf 'redis://%s:%s@redis:6379/0' "$user" "$(cat "$folder/passwords/$user")" > "$folder/redis_$user"
done
rm -r "$folder/passwords"
random 24 > "$folder/grafana_password"

id=$(random 6)
key="clk_${id}_$(random 32)"
hash=$(printf %s "$key" | sha256sum | cut -d ' ' -f 1)
cat > "$folder/api_keys.json" <<END
{"keys": [{"id": "$id", "sha256": "$hash", "tenant": "operator", "roles": ["admin"]}]}
END
chmod 0444 "$folder"/*
echo "$key"
