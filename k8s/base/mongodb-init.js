// Makes one replica set of HOSTS and, for each file in /users, a user who may read and write one database: the one
// named like the file. Run again, it brings users and passwords up to date.
const fs = require("fs");
const hosts = process.env.HOSTS.split(",");
const password = encodeURIComponent(fs.readFileSync("/secrets/root-password", "utf8").trim());
const open = (where, how) => connect(`mongodb://root:${password}@${where}/admin?authSource=admin&${how}`);

const first = open(hosts[0], "directConnection=true");
if (!first.hello().setName) {
  first.adminCommand({ replSetInitiate: { _id: "rs0", members: hosts.map((host, _id) => ({ _id, host })) } });
}

const admin = open(hosts.join(","), "replicaSet=rs0"); // waits for a primary
for (const service of fs.readdirSync("/users").filter((name) => !name.startsWith("."))) {
  const uri = fs.readFileSync(`/users/${service}`, "utf8").trim();
  const [, user, pwd] = uri.match(/^mongodb:\/\/([^:]+):([^@]+)@/).map(decodeURIComponent);
  const account = { pwd, roles: [{ role: "readWrite", db: service.replaceAll("-", "_") }] };
  if (admin.getUser(user)) admin.updateUser(user, account);
  else admin.createUser({ user, ...account });
}
