// SPDX-License-Identifier: MIT
// pgjdbc: run by `java -cp postgresql.jar Driver.java`; one line of JSON for each check.

import java.io.ByteArrayOutputStream;
import java.io.StringReader;
import java.nio.charset.StandardCharsets;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.largeobject.LargeObject;
import org.postgresql.largeobject.LargeObjectManager;

public class Driver {
    static final boolean SESSION = !"transaction".equals(System.getenv("POOL_MODE"));

    interface Check {
        void run() throws Exception;
    }

    static Connection connect(String... more) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("connectTimeout", "10");
        properties.setProperty("socketTimeout", "20");
        String threshold = System.getenv("PREPARE_THRESHOLD");
        if (!threshold.isEmpty()) {
            properties.setProperty("prepareThreshold", threshold);
        }
        for (int i = 0; i < more.length; i += 2) {
            properties.setProperty(more[i], more[i + 1]);
        }
        String url = "jdbc:postgresql://" + System.getenv("PGHOST") + ":"
            + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection(url, properties);
    }

    static void same(Object expected, Object found) {
        if (!expected.equals(found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    static void fails(String state, Callable<?> work) throws Exception {
        try {
            work.call();
        } catch (SQLException error) {
            same(state, error.getSQLState());
            return;
        }
        throw new AssertionError("no error " + state);
    }

    static int number(Connection connection, String sql, int... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) {
                statement.setInt(i + 1, values[i]);
            }
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                return rows.getInt(1);
            }
        }
    }

    static void execute(Connection connection, String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    static void queries() throws Exception {
        try (Connection connection = connect();
                PreparedStatement statement =
                    connection.prepareStatement("SELECT ?, ?::bytea, ?::int8, ?::text")) {
            String text = "naïve 東京 ".repeat(100_000);
            byte[] raw = {0, 1, -1};
            for (int round = 0; round < 12; round++) {
                statement.setString(1, text);
                statement.setBytes(2, raw);
                statement.setLong(3, 1L << 62);
                statement.setString(4, null);
                try (ResultSet rows = statement.executeQuery()) {
                    rows.next();
                    same(text, rows.getString(1));
                    same(true, Arrays.equals(raw, rows.getBytes(2)));
                    same(1L << 62, rows.getLong(3));
                    same(true, rows.getString(4) == null);
                }
            }
        }
    }

    static void simpleMode() throws Exception {
        try (Connection connection = connect("preferQueryMode", "simple")) {
            same(42, number(connection, "SELECT 40 + ?", 2));
        }
    }

    static void errors() throws Exception {
        try (Connection connection = connect()) {
            for (int round = 0; round < 10; round++) {
                fails("22012", () -> number(connection, "SELECT 1 / ?", 0));
                fails("42601", () -> number(connection, "SELEKT ?", 0));
            }
            same(1, number(connection, "SELECT 1"));
        }
    }

    static void transactions() throws Exception {
        try (Connection connection = connect()) {
            execute(connection, "CREATE TABLE java_moves (id int PRIMARY KEY)");
            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            connection.setAutoCommit(false);
            execute(connection, "INSERT INTO java_moves VALUES (1)");
            Savepoint point = connection.setSavepoint();
            fails("23505", () -> {
                execute(connection, "INSERT INTO java_moves VALUES (1)");
                return null;
            });
            connection.rollback(point);
            connection.commit();
            execute(connection, "INSERT INTO java_moves VALUES (2)");
            connection.rollback();
            same(1, number(connection, "SELECT count(*)::int FROM java_moves"));
            connection.rollback();
        }
    }

    static void batches() throws Exception {
        try (Connection connection = connect()) {
            execute(connection, "CREATE TABLE java_many (id int PRIMARY KEY, name text)");
            connection.setAutoCommit(false);
            String sql = "INSERT INTO java_many VALUES (?, ?)";
            try (PreparedStatement statement = connection.prepareStatement(sql)) {
                for (int i = 0; i < 3000; i++) {
                    statement.setInt(1, i);
                    statement.setString(2, "x".repeat(i % 100));
                    statement.addBatch();
                }
                same(3000, statement.executeBatch().length);
                connection.commit();
                statement.setInt(1, 1);
                statement.setString(2, "again");
                statement.addBatch();
                try {
                    statement.executeBatch();
                    throw new AssertionError("no error");
                } catch (BatchUpdateException error) {
                    same("23505", error.getSQLState());
                }
                connection.rollback();
            }
            same(3000, number(connection, "SELECT count(*)::int FROM java_many"));
            connection.commit();
        }
    }

    // A portal that is fetched in parts, within a transaction.
    static void cursor() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            String sql = "SELECT generate_series(1, ?)";
            try (PreparedStatement statement = connection.prepareStatement(sql)) {
                statement.setFetchSize(70);
                for (int round = 0; round < 7; round++) {
                    statement.setInt(1, 1000);
                    int sum = 0;
                    try (ResultSet rows = statement.executeQuery()) {
                        while (rows.next()) {
                            sum += rows.getInt(1);
                        }
                    }
                    same(500_500, sum);
                    connection.commit();
                }
            }
        }
    }

    static void copy() throws Exception {
        try (Connection connection = connect()) {
            execute(connection, "CREATE TABLE java_copied (id int, name text)");
            StringBuilder lines = new StringBuilder();
            for (int i = 0; i < 20_000; i++) {
                lines.append(i).append("\tnaïve ").append(i).append('\n');
            }
            var copier = connection.unwrap(PGConnection.class).getCopyAPI();
            String sql = "COPY java_copied FROM STDIN";
            same(20_000L, copier.copyIn(sql, new StringReader(lines.toString())));
            ByteArrayOutputStream taken = new ByteArrayOutputStream();
            copier.copyOut("COPY java_copied TO STDOUT", taken);
            same(lines.toString(), taken.toString(StandardCharsets.UTF_8));
            fails("22P02", () -> copier.copyIn(sql, new StringReader("no number\tx\n")));
            var open = copier.copyIn(sql);
            open.writeToCopy(new byte[] {'1', '\t', 'x', '\n'}, 0, 4);
            open.cancelCopy();
            same(20_000, number(connection, "SELECT count(*)::int FROM java_copied"));
        }
    }

    static void largeObject() throws Exception {
        byte[] data = "0123456789".repeat(30_000).getBytes(StandardCharsets.US_ASCII);
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            LargeObjectManager manager =
                connection.unwrap(PGConnection.class).getLargeObjectAPI();
            long oid = manager.createLO();
            LargeObject large = manager.open(oid, LargeObjectManager.WRITE);
            large.write(data);
            large.close();
            connection.commit();
            large = manager.open(oid, LargeObjectManager.READ);
            same(true, Arrays.equals(data, large.read(data.length + 1)));
            large.close();
            manager.delete(oid);
            connection.commit();
        }
    }

    // cancel() opens a second connection and sends a CancelRequest.
    static void cancel() throws Exception {
        try (Connection connection = connect();
                Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.executeQuery("SELECT pg_sleep(15)"));
            statement.setQueryTimeout(0);
            CompletableFuture<Void> canceller = CompletableFuture.runAsync(
                () -> {
                    try {
                        statement.cancel();
                    } catch (SQLException error) {
                        throw new IllegalStateException(error);
                    }
                },
                CompletableFuture.delayedExecutor(300, TimeUnit.MILLISECONDS));
            fails("57014", () -> statement.executeQuery("SELECT pg_sleep(15)"));
            canceller.get(10, TimeUnit.SECONDS);
            same(1, number(connection, "SELECT 1"));
        }
    }

    // More connections than servers; each makes up the same names for other texts.
    static void atOnce() throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(10);
        List<Future<?>> all = new ArrayList<>();
        for (int i = 0; i < 10; i++) {
            int client = i;
            all.add(threads.submit(() -> {
                try (Connection connection = connect()) {
                    for (int step = 0; step < 80; step++) {
                        boolean inTransaction = step % 4 == 0;
                        int offset = client * 10 + step * (client + 1) % 7;
                        connection.setAutoCommit(!inTransaction);
                        same(client * 100 + step, number(connection, "SELECT ? * 100 + ?", client, step));
                        same(step + offset, number(connection, "SELECT ? + " + offset, step));
                        if (inTransaction) {
                            connection.commit();
                        } else if (step % 3 == 0) {
                            fails("22012", () -> number(connection, "SELECT " + offset + " / ?", 0));
                        }
                    }
                }
                return null;
            }));
        }
        for (Future<?> one : all) {
            one.get(20, TimeUnit.SECONDS);
        }
        threads.shutdown();
    }

    static void catalog() throws Exception {
        try (Connection connection = connect();
                ResultSet rows = connection.getMetaData().getTables(null, "pg_catalog", "pg_cl%", null)) {
            same(true, rows.next());
            same(true, connection.isValid(5));
        }
    }

    static void notifications() throws Exception {
        try (Connection listener = connect(); Connection speaker = connect()) {
            execute(listener, "LISTEN news");
            execute(speaker, "NOTIFY news, 'flash'");
            PGNotification[] heard =
                listener.unwrap(PGConnection.class).getNotifications(10_000);
            same(1, heard.length);
            same("flash", heard[0].getParameter());
        }
    }

    static void report(String name, Check check) {
        String outcome = "ok";
        try {
            check.run();
        } catch (Throwable error) {
            StackTraceElement[] trace = error.getStackTrace();
            outcome = error + (trace.length > 0 ? " at " + trace[trace.length - 1] : "");
            error.printStackTrace();
        }
        String safe = outcome.replace("\\", "/").replace("\"", "'").replaceAll("\\s", " ");
        System.out.println("{\"" + name + "\": \"" + safe + "\"}");
    }

    public static void main(String[] arguments) {
        report("queries", Driver::queries);
        report("simpleMode", Driver::simpleMode);
        report("errors", Driver::errors);
        report("transactions", Driver::transactions);
        report("batches", Driver::batches);
        report("cursor", Driver::cursor);
        report("copy", Driver::copy);
        report("largeObject", Driver::largeObject);
        report("cancel", Driver::cancel);
        report("atOnce", Driver::atOnce);
        report("catalog", Driver::catalog);
        if (SESSION) {
            report("notifications", Driver::notifications);
        }
        System.exit(0);
    }
}
