"""Other sentences and layouts than `private_cases`, written when the patterns were done: signatures, forms, logs, tables, code, chats."""

import random
from collections.abc import Callable

import phonenumbers
from private_cases import Case, card_of, iban_of, id_of, phone_of, secrets_of


def _national(region: str, rng: random.Random) -> str:
    return phonenumbers.format_number(phone_of(region, rng), phonenumbers.PhoneNumberFormat.NATIONAL)


def _international(region: str, rng: random.Random) -> str:
    return phonenumbers.format_number(phone_of(region, rng), phonenumbers.PhoneNumberFormat.INTERNATIONAL)


def held_out(seed: int) -> list[Case]:
    """The set of one seed."""
    rng = random.Random(seed)
    found: list[Case] = []

    def add(kind: str, form: str, text: str, value: str) -> None:
        found.append(Case(kind, form, text.format(value), value))

    for _ in range(3):
        mail = f"{''.join(rng.choices('abcdefgh', k=5))}.{''.join(rng.choices('klmnop', k=4))}{rng.randint(1, 99)}@{rng.choice(('web.de', 'yahoo.co.jp', 'outlook.com', 'wanadoo.fr', 'sub.corp-mail.io', 'uni-muenchen.de'))}"
        for form, text in (
            ("signature", "Best,\nMaria\n--\nM. Lopez | {} | Sales"), ("table", "| 3 | {} | active |"), ("YAML", "owner: {}\nversion: 2"),
            ("log", "2024-03-01 10:00:01 INFO user={} action=login"), ("comma list", "cc: a, {}, b"), ("sentence end", "Her address is {}."),
            ("markdown link", "[mail]({})"), ("git log", "Author: Jane <{}>\nDate: Mon"), ("Korean", "메일은 {}로 주세요"), ("query", "https://shop.io/u?email={}&x=1"),
        ):  # fmt: skip
            add("email", form, text, mail)
        for region, form, text, way in (
            ("DE", "signature, Tel.", "Mit freundlichen Grüßen\nTel.: {}\nwww.firma.de", _national), ("FR", "form", "Nom : X\nPortable : {}\nVille : Lyon", _national),
            ("US", "dots", "He left his number: {} and went.", lambda r, g: _national(r, g).replace("(", "").replace(") ", ".").replace("-", ".")),
            ("US", "one stretch, told", "text me at {}", lambda r, g: "".join(filter(str.isdigit, _national(r, g)))),
            ("GB", "E.164", "sms:{}", lambda r, g: phonenumbers.format_number(phone_of(r, g), phonenumbers.PhoneNumberFormat.E164)),
            ("DE", "(0)", "Fon {} oder Mail", lambda r, g: _international(r, g).replace("+49 ", "+49 (0)")), ("IT", "JSON", '{{"name": "x", "telefono": "{}"}}', _national),
            ("ES", "WhatsApp", "mándame un WhatsApp al {}", _national), ("BR", "table", "| Ana | {} | SP |", _international), ("JP", "携帯", "携帯：{}（夜のみ）", _national),
            ("IN", "00", "dial 00{} from abroad", lambda r, g: _international(r, g)[1:]), ("NL", "slash", "bel mij: {}", lambda r, g: _national(r, g).replace(" ", "/", 1)),
            ("US", "number first", "{} - that is my cell", lambda r, g: _national(r, g)), ("RU", "dashes", "звоните: {}", _national),
            ("SE", "untold", "Vi ses, {} vid problem", _national), ("PL", "untold", "Odezwij się, {}, do jutra", _national),
        ):  # fmt: skip
            add("phone", form, text, way(region, rng))
        for form, text in (
            ("form", "Card number: {}\nExpiry: 04/27\nCVC: 123"),
            ("sentence", "I paid with {}."),
            ("JSON", '{{"pan": "{}"}}'),
            ("table", "| {} | visa |"),
        ):
            add("card", form, text, card_of(rng))
        for form, text in (
            ("form", "Kontonummer (IBAN)\n{}\nBIC"),
            ("sentence", "My account is {}, thanks"),
            ("JSON", '{{"iban":"{}"}}'),
        ):
            add("iban", form, text, iban_of(rng))
        for country, text in (
            ("us.ssn", "SSN: {}\nDOB: 01/02/1980"), ("us.ssn", "applicant_ssn,{}"), ("gb.nhs", "NHS no {} (Mr X)"), ("es.dni", "con DNI {} y domicilio"),
            ("it.codicefiscale", "C.F. {}"), ("fr.nir", "n° sécu {}"), ("de.idnr", "IdNr. {}"), ("nl.bsn", "burgerservicenummer {}"), ("pl.pesel", "nr PESEL {}"),
            ("se.personnummer", "född, pnr {}"), ("br.cpf", "inscrita no CPF sob o nº {}"), ("cn.ric", "身份证：{}，男"), ("kr.rrn", "주민번호 {}"), ("in_.aadhaar", "आधार संख्या {}"),
            ("mx.curp", "CURP {}"), ("tr.tckimlik", "TC Kimlik No: {}"),
        ):  # fmt: skip
            add("id", f"{country}, {text[:8]}", text, id_of(country, rng))
        for form, (kind, _, value) in secrets_of(rng).items():
            if kind == "secret" and "private" not in form:
                text = rng.choice(
                    (
                        "export TOKEN={}",
                        "headers = {{'Authorization': 'Bearer {}'}}",
                        "I pasted {} by mistake",
                        "token: {}\nuser: x",
                        "`{}`",
                        "https://api.io/?key={}",
                    )
                )
                add(kind, form, text, value)
        password = (
            f"{rng.choice(('Sol', 'katze', 'p4ss'))}{rng.randint(100, 999)}{rng.choice('!#%')}{rng.choice('xyz')}"
        )
        for form, text in (
            ("login line", "login: admin / password: {}"), ("env", "export MYSQL_PWD={}"), ("docker", "-e POSTGRES_PASSWORD={} -p 5432:5432"), ("cli", "mysql -u root --password={} db"),
            ("chat", "ok the wifi password is {} btw"), ("redis", "redis://:{}@cache.int.io:6379/0"), ("Spanish", "mi contraseña es {} desde ayer"), ("dict", "cfg['password'] = '{}'"),
            ("Italian", "La password: {}"), ("XML", "<password>{}</password>"), ("passphrase", "Passphrase is \"{}\""),
        ):  # fmt: skip
            add("password", form, text, password)
        address = f"{rng.choice((45, 88, 141, 203))}.{rng.randint(1, 99)}.{rng.randint(1, 250)}.{rng.randint(1, 250)}"
        for form, text in (
            ("log", "[{}] GET / 200"),
            ("port", "ssh root@{}"),
            ("port", "http://{}:8080/x"),
            ("sentence", "Your IP is {}."),
            ("CIDR", "allow {}/32"),
        ):
            add("ip", form, text, address)
    n: Callable[[int], str] = lambda count: "".join(rng.choices("0123456789", k=count))  # noqa: E731
    clean = {
        "phone of a service": "In an emergency dial 112 or 911.", "DOI": f"doi:10.{n(4)}/j.cell.{n(4)}.{n(2)}.{n(3)}", "arXiv": f"arXiv:{n(4)}.{n(5)}v2", "ISSN": f"ISSN {n(4)}-{n(4)}",
        "LaTeX": "$x_{12} = 3.14159 \\times 10^{-23}$ and \\cite{smith2019}", "table of numbers": f"{n(3)} {n(4)} {n(4)}\n{n(3)} {n(4)} {n(4)}\n{n(2)}.{n(4)} {n(3)},{n(3)}",
        "CSV of floats": ",".join(f"{rng.random():.6f}" for _ in range(12)), "scientific": f"{n(1)}.{n(6)}e-{n(2)}, {n(1)}.{n(6)}E+{n(2)}", "hex dump": "00000010: 7f45 4c46 0201 0100 0000 0000 0000 0000",
        "SQL": f"INSERT INTO t VALUES ({n(6)}, '{n(4)}-{n(2)}', {n(9)});", "phone words, other numbers": "The phone costs 1299 dollars; call me in 30 minutes, at 18:45 on 2024-05-06.", "cell": f"In cell B{n(2)} type =SUM(A1:A{n(3)})",
        "tel. price": f"Handy für {n(3)},{n(2)} €, Ladekabel {n(2)},{n(2)} €", "model numbers": "The WD-40, a Boeing 747-400, an iPhone 15, RTX 4090, MP3", "postcode": "D-80331 München, SW1A 1AA London, 75001 Paris, 100-0001 Tokyo",
        "flight": f"Flight LH{n(4)} from FRA, seat 12A, booking XK{n(2)}QZ", "years": "1914-1918 and 1939-1945, 2020/2021", "IP range in words": "Use subnet 10.0.0.0/8 or 172.16.0.1, mask 255.255.255.0", "section": "See 4.2.1.3 and figure 1.2.3.4 below",
        "JWT in words": "A JWT has header.payload.signature", "token in ML": "The token embedding is 768-dimensional; max_tokens=2048, token: 'hello1'", "secret in prose": "The secret is to use 2 eggs. Her secret: 3 cups of sugar", "password talk": "Never reuse a password. Password reset takes 24h. The password is case-sensitive",
        "key in prose": "The key is B2B marketing; a key: C#minor", "Python": "x = d['key1']; api_key = os.getenv('API_KEY_2'); password=getpass.getpass()", "JS": "const token = req.headers.authorization1; secret: process.env.JWT_SECRET1", "docker": "docker run -p 8080:80 nginx:1.25.3-alpine@sha256:" + rng.randbytes(32).hex(),
        "package": "pip install torch==2.1.0+cu118 numpy>=1.24.0,<2", "semver range": ">=1.2.3.4 <2.0.0.0", "Bible": "John 3:16, Gen. 12:1-3", "ratio": "16:9, 1:1000000, 3/4", "RGB": "rgb(255, 255, 255) #ff00aa rgba(12,34,56,0.7)", "uuid4 no dashes": rng.randbytes(16).hex(),
        "mail headers": "Message-ID: <20240101.12345@mail.example.com>", "handle": "@user1234 and user#1234, ~me", "long sum": f"{n(6)} × {n(6)} = {n(11)}", "digits asked": f"Reverse the digits {n(14)} please", "binary": "01001000 01101001 00100001", "roman": "MCMXCIV, MMXXIV",
        "URL": f"https://news.site.com/2024/05/06/article-{n(8)}.html#c{n(6)}", "YouTube": "https://youtu.be/dQw4w9WgXcQ?t=43", "base64 of text": "SGVsbG8gd29ybGQhIFRoaXMgaXMganVzdCB0ZXh0Lg==", "DNA": "ACGTTGCAACGTGGCATTACGATCGATCGATTACG", "chem": "C6H12O6, H2SO4, 1,2-dichloroethane",
    }  # fmt: skip
    return found + [Case(None, form, text) for form, text in clean.items()]
